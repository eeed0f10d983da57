// Sends a job to jobproxy with net/http, and prints its result: go run go_client.go URL JOB
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"
)

const (
	wait     = 30 * time.Second  // the proxy's --wait
	patience = 300 * time.Second // for all attempts together
)

var client = http.Client{Timeout: wait + 5*time.Second}

// send sends one request and reads the whole response.
func send(method string, to *url.URL, body []byte, headers map[string]string) (*http.Response, []byte, error) {
	request, err := http.NewRequest(method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response, content, err
}

// runJob returns the result of a job, which is started once at most.
func runJob(to *url.URL, job []byte) ([]byte, error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	start := map[string]string{
		"Content-Type":    "application/json",
		"Idempotency-Key": fmt.Sprintf("%x", random),
	}
	ask := map[string]string{"Prefer": fmt.Sprintf("wait=%.0f", wait.Seconds())}
	var place *url.URL // where to ask for the result, once the job may run
	noResult := errors.New("there was no response; it is not known whether the job was started")
	for end := time.Now().Add(patience); time.Now().Before(end); {
		var response *http.Response
		var body []byte
		var err error
		if place == nil {
			response, body, err = send("POST", to, job, start)
		} else {
			response, body, err = send("GET", place, nil, ask)
		}
		if err == nil && response.StatusCode == 200 {
			return body, nil
		}
		if err == nil && response.StatusCode == 202 {
			if place, err = to.Parse(response.Header.Get("Location")); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil || response.Header.Get("Content-Type") != "application/problem+json" {
			// The job may run or not. With the same key it is not started again.
			time.Sleep(time.Second)
			continue
		}
		var problem struct{ Started, Instance string }
		if err := json.Unmarshal(body, &problem); err != nil {
			return nil, err
		}
		noResult = errors.New(string(body))
		isForgotten := response.StatusCode == 404 || response.StatusCode == 409
		pause, err := strconv.Atoi(response.Header.Get("Retry-After"))
		mayRepeat := err == nil
		switch {
		case problem.Started == "no" && mayRepeat:
			place = nil
		case problem.Started == "no" || isForgotten:
			return nil, noResult
		case problem.Instance != "":
			if place, err = to.Parse(problem.Instance); err != nil {
				return nil, err
			}
		case !mayRepeat:
			return nil, noResult
		}
		if pause := time.Duration(pause) * time.Second; pause < patience {
			time.Sleep(pause)
		} else {
			return nil, noResult
		}
	}
	return nil, noResult
}

func main() {
	to, err := url.Parse(os.Args[1])
	if err == nil {
		var result []byte
		if result, err = runJob(to, []byte(os.Args[2])); err == nil {
			os.Stdout.Write(result)
			return
		}
	}
	fmt.Fprintln(os.Stderr, "no result:", err)
	os.Exit(1)
}

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Optional;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Sends a job to jobproxy with HttpClient, and prints its result: java JavaClient.java URL JOB */
public class JavaClient {
    /** Seconds: the proxy's --wait, and all attempts together. */
    static final int WAIT = 30;
    static final int PATIENCE = 300;

    static final HttpClient CLIENT = HttpClient.newBuilder()
        .version(HttpClient.Version.HTTP_1_1)
        .connectTimeout(Duration.ofSeconds(5))
        .build();

    /** There is no result, and the problem says why. */
    static class NoResult extends Exception {
        NoResult(String problem) {
            super(problem);
        }
    }

    /** Returns the result of a job, which is started once at most. */
    static byte[] runJob(URI url, String job) throws NoResult, InterruptedException {
        String key = UUID.randomUUID().toString();
        // Where to ask for the result, once the job may run.
        URI place = null;
        String problem = "{\"detail\": \"There was no response.\", \"started\": \"unknown\"}";
        long end = System.nanoTime() + PATIENCE * 1_000_000_000L;
        while (System.nanoTime() < end) {
            HttpRequest.Builder request = HttpRequest.newBuilder().timeout(Duration.ofSeconds(WAIT + 5));
            if (place == null) {
                request.uri(url)
                    .header("Content-Type", "application/json")
                    .header("Idempotency-Key", key)
                    .POST(HttpRequest.BodyPublishers.ofString(job));
            } else {
                request.uri(place).header("Prefer", "wait=" + WAIT);
            }
            HttpResponse<byte[]> response;
            try {
                response = CLIENT.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
            } catch (IOException error) {
                // The job may run or not. With the same key it is not started again.
                Thread.sleep(1000);
                continue;
            }
            if (response.statusCode() == 200) {
                return response.body();
            }
            if (response.statusCode() == 202) {
                place = url.resolve(response.headers().firstValue("Location").orElseThrow());
                continue;
            }
            String type = response.headers().firstValue("Content-Type").orElse("");
            if (!type.equals("application/problem+json")) {
                // Something between responds instead of jobproxy.
                Thread.sleep(1000);
                continue;
            }
            problem = new String(response.body(), StandardCharsets.UTF_8);
            boolean isStarted = !member(problem, "started").orElse("unknown").equals("no");
            Optional<String> pause = response.headers().firstValue("Retry-After");
            Optional<String> instance = member(problem, "instance");
            boolean isForgotten = response.statusCode() == 404 || response.statusCode() == 409;
            if (!isStarted && pause.isPresent()) {
                place = null;
            } else if (!isStarted || isForgotten || (instance.isEmpty() && pause.isEmpty())) {
                throw new NoResult(problem);
            } else if (instance.isPresent()) {
                place = url.resolve(instance.get());
            }
            Thread.sleep(Math.min(Long.parseLong(pause.orElse("0")), PATIENCE) * 1000);
        }
        throw new NoResult(problem);
    }

    /** Returns a member of a problem; better use the JSON library that you have. */
    static Optional<String> member(String problem, String name) {
        // Quotes inside a text have a backslash, so none is mistaken.
        Matcher found = Pattern.compile("\"" + name + "\": *\"([^\"]*)\"").matcher(problem);
        return found.find() ? Optional.of(found.group(1)) : Optional.empty();
    }

    public static void main(String[] arguments) throws InterruptedException {
        try {
            System.out.writeBytes(runJob(URI.create(arguments[0]), arguments[1]));
            System.out.flush();
        } catch (NoResult error) {
            System.err.println("no result: " + error.getMessage());
            System.exit(1);
        }
    }
}

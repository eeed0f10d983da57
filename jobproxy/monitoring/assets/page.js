import {Chart, showTime} from "./chart.js";

// Rates and quantiles are computed over so many seconds, so that single events do not dominate.
const WINDOW = 10;
// Seconds without an event after which there are no data any more.
const PATIENCE = 5;
const seen = [];
const find = (id) => document.getElementById(id);
const icons = JSON.parse(document.body.dataset.icons);
let heard = Date.now();

const round = (value) => value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en")
  : value.toPrecision(2);
const showSeconds = (value) => value === null ? "–" : value < 1 ? `${round(value * 1000)} ms` : `${round(value)} s`;

function showAge(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = parts.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.floor(seconds / size)} ${unit}`;
}

const sum = (values) => values.reduce((all, value) => all + value, 0);
const refused = (status) => sum(Object.values(status.refused)) + sum(status.responses
  .filter((each) => each.status >= 400 && each.status !== 499 && each.outcome !== "ok").map((each) => each.count));
const ended = (status) => sum(status.jobSeconds.counts);

function measureRate(count) {
  const last = seen.at(-1), first = seen.at(-1 - WINDOW) ?? seen[0];
  const seconds = last.time - first.time;
  return seconds > 0 ? (count(last) - count(first)) / seconds : 0;
}

// As Prometheus's histogram_quantile: linear within the bucket that the quantile falls in.
function estimateQuantile(quantile, read) {
  const last = read(seen.at(-1)), first = read(seen.at(-1 - WINDOW) ?? seen[0]);
  const counts = last.counts.map((count, index) => count - first.counts[index]);
  let rank = quantile * sum(counts);
  if (!rank) return null;
  for (let index = 0; index < last.bounds.length; index++) {
    if (rank <= counts[index]) {
      const low = index ? last.bounds[index - 1] : 0;
      return low + (last.bounds[index] - low) * (rank / counts[index]);
    }
    rank -= counts[index];
  }
  return last.bounds.at(-1);
}

// What only this script can tell; the others are as the server writes them.
const TILES = {
  held: (s) => round(s.held), "held-more": (s) => `of ${round(s.maxHeld)}`,
  rate: () => round(measureRate(ended)), refused: () => round(measureRate(refused)),
  p50: () => showSeconds(estimateQuantile(0.5, (s) => s.jobSeconds)),
  p99: () => showSeconds(estimateQuantile(0.99, (s) => s.jobSeconds)),
  queued: (s) => round(s.queued), "queued-more": (s) => `of ${round(s.accounts.count)} accounts`,
  starting: (s) => round(s.starting), circuit: (s) => s.circuit,
  orphans: (s) => round(s.orphans), "orphans-more": (s) => `${round(s.retained)} results kept here`,
  lag: () => showSeconds(estimateQuantile(0.99, (s) => s.lag)),
};

function make(tag, text, kind) {
  const element = document.createElement(tag);
  element.textContent = text ?? "";
  if (kind) element.className = kind;
  return element;
}

function fillTable(id, heads, rows) {
  const kinds = heads.map((name) => name.startsWith("#") ? "number" : "");
  const head = make("thead"), body = make("tbody"), titles = make("tr");
  titles.append(...heads.map((name, index) => Object.assign(make("th", name.replace("#", ""), kinds[index]), {scope: "col"})));
  head.append(titles);
  for (const row of rows.length ? rows : [["none"]]) {
    const line = make("tr");
    line.append(...row.map((cell, index) => {
      const field = make("td", cell instanceof Node ? "" : cell, kinds[index]);
      if (cell instanceof Node) field.append(cell); else field.title = cell;
      return field;
    }));
    if (!rows.length) Object.assign(line.firstChild, {colSpan: heads.length, className: "dim"});
    body.append(line);
  }
  find(id).replaceChildren(head, body);
}

function linkRunbook(section) {
  return section ? Object.assign(make("a", section), {href: `runbook#${section.toLowerCase()}`}) : "";
}

// A screen reader says the state when it changes, not each number in the sentence.
function showWord(word, text) {
  document.title = `${word === "no-data" ? "No data" : word[0].toUpperCase() + word.slice(1)}: jobproxy`;
  find("icon").href = icons[word];
  if (document.body.dataset.word !== word) find("live").textContent = text;
  document.body.dataset.word = word;
}

function showVerdict({word, text, runbook}) {
  const said = runbook ? text.slice(0, text.lastIndexOf(runbook)) : text;
  find("text").firstChild.textContent = said;
  find("runbook").textContent = runbook ?? "";
  find("runbook").href = `runbook#${(runbook ?? "").toLowerCase()}`;
  find("runbook").hidden = !runbook;
  showWord(word, text);
}

function show(status) {
  // The process was restarted, so its counts begin at 0.
  if (seen.length && status.uptime < seen.at(-1).uptime) { seen.length = 0; loadHistory(); }
  seen.push(status);
  if (seen.length > WINDOW + 1) seen.shift();
  heard = Date.now();
  showVerdict(status.verdict);
  find("time").textContent = showTime(status.time, 19);
  find("about").textContent = `${status.version}, up ${showAge(status.uptime)}`;
  for (const [id, read] of Object.entries(TILES)) find(id).textContent = read(status);
  find("details").hidden = false;
  const count = (value) => value.toLocaleString("en");
  fillTable("errors", ["to", "type", "#last minute", "#last hour", "#in all", "first", "last", "a request", "what to do"],
    status.errors.map((each) => [each.side || "–", `${each.status} ${each.type}`, count(each.minute), count(each.hour),
      count(each.total), showTime(each.first, 19), showTime(each.last, 19), each.requestId, linkRunbook(each.runbook)]));
  fillTable("responses", ["status", "outcome", "#count"],
    status.responses.map((each) => [each.status, each.outcome, count(each.count)]));
  const kinds = [["start", status.starts], ["callback", status.callbacks], ["refused connection", status.refused]];
  fillTable("results", ["event", "result", "#count"], kinds.flatMap(([kind, results]) =>
    Object.entries(results).map(([result, number]) => [kind, result, count(number)])));
  fillTable("accounts", ["account", "#queued", "#starting", "#paused"], status.accounts.longest
    .map((queue) => [queue.account ?? "(hidden)", queue.queued, queue.running, showSeconds(queue.paused)]));
  fillTable("refusals", ["time", "status", "outcome", "request"], status.refusals
    .map((each) => [showTime(each.time, 19), each.status, each.outcome, each.requestId]));
}

function showNoData() {
  if (document.body.dataset.word === "no-data") return;
  const text = `No data since ${find("time").textContent} UTC: jobproxy cannot be reached from here.`;
  showVerdict({word: "no-data", text, runbook: null});
}

const FIELDS = ["time", "held", "queued", "results", "failures", "p50", "p99", "lag", "state"];
const at = (name) => FIELDS.indexOf(name);
const CHARTS = [
  ["Clients", [["held", at("held"), round], ["queued", at("queued"), round]]],
  ["Each second", [["results", at("results"), round], ["failures", at("failures"), round]]],
  ["Duration of jobs", [["median", at("p50"), showSeconds], ["p99", at("p99"), showSeconds]]],
  ["Reactor lag", [["p99", at("lag"), showSeconds]]],
];
find("charts").hidden = false;
const charts = CHARTS.map(([title, lines]) => new Chart(find("figures"), title, lines));
let part = "hour";

async function loadHistory() {
  const response = await fetch("history").catch(() => null);
  if (!response?.ok) return;
  const history = await response.json(), {step, points} = history[part], span = part === "hour" ? 3600 : 86400;
  for (const chart of charts) chart.show(points, step, span, history.time, history.marks);
  find("marks").replaceChildren(...history.marks.filter((each) => each.time >= history.time - span).reverse()
    .map((each) => make("li", `${showTime(each.time, 19)} ${each.text}`)));
}

for (const name of ["hour", "day"]) {
  find(name).addEventListener("click", () => {
    part = name;
    for (const each of ["hour", "day"]) find(each).setAttribute("aria-pressed", each === name);
    loadHistory();
  });
}

const events = new EventSource("events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = showNoData;
// A process that is stopped says nothing, and leaves the connection open.
setInterval(() => { if (Date.now() - heard > PATIENCE * 1000) showNoData(); }, 1000);
setInterval(() => { if (!document.hidden && !charts.some((chart) => chart.chosen !== null)) loadHistory(); }, 10000);
addEventListener("resize", loadHistory);
loadHistory();

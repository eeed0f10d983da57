// Charts of the history: axes, the maximum, states, marks, and the values under the pointer or the cursor.
const LEFT = 52, BOTTOM = 18, TOP = 8, HEIGHT = 140;

function draw(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export const showTime = (unix, end = 16) => new Date(unix * 1000).toISOString().slice(11, end);

export class Chart {
  // lines: [name, index of the field, how a value is shown], two at most.
  constructor(parent, title, lines) {
    this.lines = lines;
    this.title = title;
    const figure = document.createElement("figure");
    this.caption = document.createElement("figcaption");
    this.svg = draw("svg", {role: "img", tabindex: 0});
    figure.append(this.caption, this.svg);
    parent.append(figure);
    this.svg.addEventListener("pointermove", (event) => this.pick(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!step) return;
      event.preventDefault();
      const last = this.points.length - 1;
      this.choose(Math.min(last, Math.max(0, (this.chosen ?? last + (step < 0 ? 1 : 0)) + step)));
    });
  }

  show(points, step, span, end, marks) {
    Object.assign(this, {points, chosen: null, start: end - span, span, width: this.svg.clientWidth || 400});
    const values = (index) => points.map((point) => point[index]).filter((value) => value !== null);
    this.most = this.lines.map(([, index]) => Math.max(0, ...values(index)));
    const top = Math.max(...this.most) || 1, bottom = HEIGHT - BOTTOM;
    this.y = (value) => bottom - (bottom - TOP) * value / top;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const parts = points.filter((point) => point.at(-1)).map((point) => draw("rect", {
      x: this.x(point[0] - step), y: TOP, width: this.x(point[0]) - this.x(point[0] - step),
      height: bottom - TOP, class: `state${point.at(-1)}`}));
    for (const share of [0, .5, 1]) {
      parts.push(draw("line", {x1: LEFT, x2: this.width, y1: this.y(top * share), y2: this.y(top * share), class: "grid"}));
      parts.push(draw("text", {x: LEFT - 4, y: this.y(top * share) + 4, "text-anchor": "end"}, this.lines[0][2](top * share)));
    }
    for (const share of [0, .25, .5, .75, 1]) {
      const anchor = share === 1 ? "end" : share ? "middle" : "start";
      const time = this.start + span * share;
      parts.push(draw("text", {x: this.x(time), y: HEIGHT - 4, "text-anchor": anchor}, showTime(time)));
    }
    for (const mark of marks.filter((each) => each.time >= this.start)) {
      const line = draw("line", {x1: this.x(mark.time), x2: this.x(mark.time), y1: TOP, y2: bottom, class: "mark"});
      line.append(draw("title", {}, `${showTime(mark.time, 19)} ${mark.text}`));
      parts.push(line);
    }
    this.lines.forEach(([, index], number) => {
      let path = "", before = null;
      for (const point of points) {
        if (point[index] === null) { before = null; continue; }
        const isGap = before === null || point[0] - before > 2.5 * step;
        path += `${isGap ? "M" : "L"}${this.x(point[0]).toFixed(1)},${this.y(point[index]).toFixed(1)}`;
        before = point[0];
      }
      parts.push(draw("path", {d: path, class: ["one", "two"][number]}));
    });
    this.cursor = draw("line", {y1: TOP, y2: bottom, class: "cursor", visibility: "hidden"});
    this.svg.replaceChildren(...parts, this.cursor);
    this.choose(null);
  }

  x(time) { return LEFT + Math.max(0, (time - this.start) / this.span) * (this.width - LEFT); }

  pick(x) {
    const distances = (this.points ?? []).map((point) => Math.abs(this.x(point[0]) - x));
    this.choose(distances.length ? distances.indexOf(Math.min(...distances)) : null);
  }

  choose(index) {
    if (!this.points) return;
    const point = this.points[index];
    this.chosen = point ? index : null;
    const say = ([name, field, show], number) => point
      ? `${name} ${point[field] === null ? "–" : show(point[field])}` : `${name} at most ${show(this.most[number])}`;
    const text = `${this.title}${point ? ` at ${showTime(point[0], 19)}` : ""}: ${
      this.points.length ? this.lines.map(say).join(", ") : "no points yet"}`;
    this.caption.textContent = text;
    this.svg.setAttribute("aria-label", `${text}. The arrow keys read the values.`);
    this.cursor.setAttribute("visibility", point ? "visible" : "hidden");
    if (point) for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.x(point[0]));
  }
}

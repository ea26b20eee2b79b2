/* Pictures with sliders, drawn in the place <div data-widget="NAME"> over the JSON in it. The still
   figure beside each says the same without scripts and in print.

   alpha    {beta, log_ratios}: log πθ/πref of y_ws, y_wt and y_l in nats
   frames   {x, frames: [{name, own, source, own_mean, source_mean}]}: densities over x in nats    */
(() => {
  const WIDTH = Math.min(560, innerWidth - 60); // so that type keeps its size on a phone
  const HEIGHT = 260, LEFT = 52, RIGHT = 14, TOP = 12, BOTTOM = 42;
  const SVG = "http://www.w3.org/2000/svg";
  const DRAWN = new Set(["svg", "path", "line", "text", "circle"]);

  function make(name, attributes = {}, ...children) {
    const node = DRAWN.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const shown = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

  /* Whole numbers where they are few, else quarters of the way. */
  function ticks([low, high]) {
    const span = high - low, parts = Number.isInteger(span) && span > 1 && span < 7 ? span : 4;
    return Array.from({ length: parts + 1 }, (_, i) => low + (i / parts) * span);
  }

  /* An SVG with axes, and what places values in it: x, y and the path of a curve. */
  function axes(label, xs, ys, xlabel, ylabel) {
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
    const x = (v) => LEFT + ((v - xs[0]) / (xs[1] - xs[0])) * (WIDTH - LEFT - RIGHT);
    const y = (v) => HEIGHT - BOTTOM - ((v - ys[0]) / (ys[1] - ys[0])) * (HEIGHT - TOP - BOTTOM);
    const write = (words, at) => svg.append(make("text", { "text-anchor": "middle", ...at }, words));
    const short = (v) => String(Number(v.toPrecision(3))).replace("-", "−");
    for (const v of ticks(ys)) {
      svg.append(make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v), class: "grid" }));
      write(short(v), { x: LEFT - 6, y: y(v) + 5, "text-anchor": "end" });
    }
    for (const v of ticks(xs)) write(short(v), { x: x(v), y: HEIGHT - BOTTOM + 18 });
    write(xlabel, { x: (LEFT + WIDTH) / 2, y: HEIGHT - 5 });
    write(ylabel, { transform: `translate(13 ${(HEIGHT - BOTTOM) / 2}) rotate(-90)` });
    const curve = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a)} ${y(b)}`).join("");
    return { svg, x, y, curve };
  }

  function slider(label, low, high, step, value) {
    const input = make("input", { type: "range", min: low, max: high, step, value });
    const output = make("output");
    const words = make("span");
    words.innerHTML = label;
    return { input, output, row: make("label", { class: "widget-row" }, words, input, output) };
  }

  function legend(entries) {
    const keys = entries.map(([name, kind]) => {
      const line = make("line", { x2: 28, y1: 6, y2: 6, class: `line ${kind}` });
      return make("span", {}, make("svg", { viewBox: "0 0 28 12", class: "key", "aria-hidden": "true" }, line), name);
    });
    return make("p", { class: "widget-said" }, ...keys);
  }

  /* Margin u, loss −log σ(u), and |∂loss/∂log πθ(y|x)| = βσ(−u) · (α, 1 − α, 1), in 1/nat. */
  function wrpo(beta, [source, target, rejected], alpha) {
    const margin = beta * (alpha * source + (1 - alpha) * target - rejected);
    const pull = beta / (1 + Math.exp(margin));
    const loss = Math.log1p(Math.exp(-Math.abs(margin))) + Math.max(-margin, 0);
    return { margin, loss, weights: [pull * alpha, pull * (1 - alpha), pull] };
  }

  function alpha(box, { beta, log_ratios: given }) {
    const responses = [["source", "ws"], ["target", "wt"], ["rejected", "l"]];
    const reach = Math.max(100, ...given.map((v) => 1.5 * Math.abs(v)));
    const weight = slider("α", 0, 1, 0.01, 0.1);
    const dials = responses.map(([, short], i) =>
      slider(`log π<sub>θ</sub>/π<sub>ref</sub> of y<sub>${short}</sub>`, -reach, reach, 1, given[i]));
    const graph = make("div"), shares = make("div", { class: "widget-shares" });
    const said = make("p", { class: "widget-said", "aria-live": "polite" });

    function draw() {
      const ratios = dials.map(({ input }) => Number(input.value)), now = Number(weight.input.value);
      weight.output.value = shown(now);
      dials.forEach(({ output }, i) => { output.value = `${shown(ratios[i], 0)} nats`; });
      const grid = Array.from({ length: 51 }, (_, i) => [i / 50, wrpo(beta, ratios, i / 50)]);
      const values = grid.flatMap(([, at]) => [at.margin, at.loss]);
      const range = [Math.floor(Math.min(0, ...values)), Math.ceil(Math.max(1, ...values))];
      const { svg, x, y, curve } = axes("Margin and loss against α", [0, 1], range, "α", "margin, loss");
      const here = wrpo(beta, ratios, now);
      for (const [what, dash] of [["margin", ""], ["loss", "dashed"]]) {
        svg.append(make("path", { d: curve(grid.map(([a, at]) => [a, at[what]])), class: `line ${what} ${dash}` }));
        svg.append(make("circle", { cx: x(now), cy: y(here[what]), r: 5, class: what }));
      }
      graph.replaceChildren(svg);
      said.textContent = `Margin u = ${shown(here.margin, 3)}, loss −log σ(u) = ${shown(here.loss, 4)}. ` +
        `Gradient weights βσ(−u) · (α, 1 − α, 1), in 1/nat:`;
      shares.replaceChildren(...responses.map(([kind, short], i) => {
        const row = make("div", { class: kind });
        row.innerHTML = `y<sub>${short}</sub>: ${shown(here.weights[i], 5)}`;
        row.append(make("span", { class: "bar", style: `width: ${(100 * here.weights[i]) / beta}%` }));
        return row;
      }));
    }

    for (const { input, row } of [weight, ...dials]) {
      input.addEventListener("input", draw);
      box.append(row);
    }
    box.append(graph, legend([["margin u", "margin"], ["loss", "loss dashed"]]), said, shares);
    draw();
  }

  function frames(box, { x: xs, frames: moments }) {
    const kinds = [["own", ""], ["source", "dashed"]];
    const top = Math.max(...moments.flatMap((moment) => [...moment.own, ...moment.source]));
    const { svg, x, curve } = axes(
      "Densities of log-probabilities", [xs[0], xs.at(-1)], [0, top], "log πθ(y|x), nats per response", "density");
    const when = slider("model", 0, moments.length - 1, 1, 0);
    const drawn = kinds.map(([kind, dash]) => ({
      path: svg.appendChild(make("path", { class: `line ${kind} ${dash}` })),
      mean: svg.appendChild(make("line", { class: `line mean ${kind} ${dash}`, y1: TOP, y2: HEIGHT - BOTTOM })),
    }));

    function draw() {
      const moment = moments[Number(when.input.value)];
      when.output.value = moment.name;
      kinds.forEach(([kind], i) => {
        drawn[i].path.setAttribute("d", curve(xs.map((v, j) => [v, moment[kind][j]])));
        for (const end of ["x1", "x2"]) drawn[i].mean.setAttribute(end, x(moment[`${kind}_mean`]));
      });
    }

    when.input.addEventListener("input", draw);
    box.append(when.row, svg, legend([["own responses", "own"], ["source responses", "source dashed"]]));
    draw();
  }

  const WIDGETS = { alpha, frames };
  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll("[data-widget]")) {
      const box = make("div", { class: "widget-live" });
      WIDGETS[place.dataset.widget](box, JSON.parse(place.querySelector("script").textContent));
      place.append(box);
    }
  });
})();

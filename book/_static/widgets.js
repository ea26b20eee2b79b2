/* Pictures with sliders, drawn over JSON that the page carries (book/_ext/widget.py). Without scripts
   and in print the page shows the still picture instead.

   alpha    {source, target, rejected}: internal rewards r(x, y) of y_ws, y_wt and y_l
   frames   {x, xlabel, series: [{name, color, dash}], frames: [{label, densities: [[...], ...]}]}:
            one curve a series over the same x, one frame a moment of training                      */
(() => {
  const WIDTH = 560, HEIGHT = 260, PAD = { left: 52, right: 14, top: 12, bottom: 40 };
  const SVG = "http://www.w3.org/2000/svg";

  function make(name, attributes = {}, ...children) {
    const shape = ["svg", "path", "line", "text", "circle", "g"].includes(name);
    const node = shape ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  /* Axes in an SVG; returns the scales and `curve`, which makes a path through points. */
  function plot(label, xs, ys, xlabel, ylabel) {
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
    const x = (v) => PAD.left + ((v - xs[0]) / (xs[1] - xs[0])) * (WIDTH - PAD.left - PAD.right);
    const y = (v) => HEIGHT - PAD.bottom - ((v - ys[0]) / (ys[1] - ys[0])) * (HEIGHT - PAD.top - PAD.bottom);
    const write = (at, words, extra = {}) => svg.append(make("text", { ...at, ...extra }, words));
    const ticks = ([low, high]) => [0, 1, 2, 3, 4].map((i) => low + (i * (high - low)) / 4);
    const short = (v) => String(Number(v.toPrecision(2))).replace("-", "−");
    for (const v of ticks(ys)) {
      svg.append(make("line", { x1: PAD.left, x2: WIDTH - PAD.right, y1: y(v), y2: y(v), class: "grid" }));
      write({ x: PAD.left - 6, y: y(v) + 5, "text-anchor": "end" }, short(v));
    }
    for (const v of ticks(xs)) write({ x: x(v), y: HEIGHT - PAD.bottom + 18, "text-anchor": "middle" }, short(v));
    write({ x: (PAD.left + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xlabel);
    const middle = (HEIGHT - PAD.bottom) / 2;
    write({ "text-anchor": "middle", transform: `translate(13 ${middle}) rotate(-90)` }, ylabel);
    const curve = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a)} ${y(b)}`).join("");
    return { svg, x, y, curve };
  }

  function slider(label, low, high, step, value) {
    const input = make("input", { type: "range", min: low, max: high, step, value });
    const output = make("output");
    return { input, output, row: make("label", { class: "widget-row" }, label, input, output) };
  }

  const signed = (v, digits = 2) => v.toFixed(digits).replace("-", "−");
  const sigmoid = (v) => 1 / (1 + Math.exp(-v));

  /* The fused reward's margin, the loss −log σ(margin) and the shares of its gradient. */
  function wrpo({ source, target, rejected }, alpha) {
    const margin = alpha * source + (1 - alpha) * target - rejected;
    const pull = sigmoid(-margin); // −dloss/dmargin, which every share is multiplied by
    return {
      margin,
      loss: Math.log1p(Math.exp(-Math.abs(margin))) + Math.max(-margin, 0),
      gradients: { source: -pull * alpha, target: -pull * (1 - alpha), rejected: pull },
    };
  }

  function alpha(box, given) {
    const rewards = { ...given };
    const names = { source: "r(x, y_ws)", target: "r(x, y_wt)", rejected: "r(x, y_l)" };
    const weight = slider("α", 0, 1, 0.01, 0.1);
    const reach = Math.max(2, ...Object.values(given).map((v) => Math.ceil(Math.abs(v))));
    const dials = Object.keys(names).map((key) => [key, slider(names[key], -reach, reach, 0.05, given[key])]);
    const graph = make("div"), shares = make("div", { class: "widget-shares" });
    const said = make("p", { "aria-live": "polite", class: "widget-said" });

    function draw() {
      const now = Number(weight.input.value);
      for (const [key, dial] of dials) rewards[key] = Number(dial.input.value);
      for (const { input, output } of [weight, ...dials.map((d) => d[1])]) output.value = signed(Number(input.value));
      const grid = Array.from({ length: 51 }, (_, i) => i / 50);
      const lines = ["margin", "loss"].map((what) => grid.map((a) => [a, wrpo(rewards, a)[what]]));
      const values = lines.flat().map((point) => point[1]);
      const range = [Math.min(0, Math.floor(Math.min(...values))), Math.max(1, Math.ceil(Math.max(...values)))];
      const { svg, x, y, curve } = plot("Margin and loss against α", [0, 1], range, "α", "nats");
      lines.forEach((points, i) => {
        const what = ["margin", "loss"][i];
        svg.append(make("path", { d: curve(points), class: `line ${what}` }));
        svg.append(make("circle", { cx: x(now), cy: y(wrpo(rewards, now)[what]), r: 5, class: what }));
      });
      graph.replaceChildren(svg);
      const { margin, loss, gradients } = wrpo(rewards, now);
      said.innerHTML = `<span class="margin-key">margin ${signed(margin)}</span>, <span class="loss-key">` +
        `loss −log σ(margin) = ${signed(loss, 3)}</span>; gradient of the loss by reward, α : 1 − α : 1 ` +
        `times σ(−margin) = ${signed(sigmoid(-margin), 3)}:`;
      shares.replaceChildren(...Object.keys(names).map((key) => {
        const bar = make("span", { class: `bar ${key}`, style: `width:${50 * Math.abs(gradients[key])}%` });
        return make("div", {}, `${names[key]} ${signed(gradients[key], 3)}`, bar);
      }));
    }

    const rows = [weight, ...dials.map((d) => d[1])];
    for (const { input } of rows) input.addEventListener("input", draw);
    box.append(...rows.map((r) => r.row), graph, said, shares);
    draw();
  }

  function frames(box, { x: xs, xlabel, series, frames: moments }) {
    const top = Math.max(...moments.flatMap((moment) => moment.densities.flat()));
    const { svg, curve } = plot(`Densities of ${xlabel}`, [xs[0], xs.at(-1)], [0, top], xlabel, "density");
    const paths = series.map(({ color, dash }) => {
      const path = make("path", { class: "line", style: `stroke:${color}`, "stroke-dasharray": dash ?? "" });
      svg.append(path);
      return path;
    });
    const when = slider("moment", 0, moments.length - 1, 1, moments.length - 1);
    const play = make("button", { type: "button" }, "Play");
    let timer = 0;

    function draw() {
      const { label, densities } = moments[Number(when.input.value)];
      when.output.value = label;
      densities.forEach((density, i) => paths[i].setAttribute("d", curve(xs.map((v, j) => [v, density[j]]))));
    }
    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    }
    function advance() {
      const next = Number(when.input.value) + 1;
      if (next >= moments.length) return stop();
      when.input.value = next;
      draw();
    }
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(when.input.value) === moments.length - 1) when.input.value = 0;
      play.textContent = "Pause";
      draw();
      timer = setInterval(advance, 500);
    });
    when.input.addEventListener("input", () => { stop(); draw(); });
    const legend = make("p", { class: "widget-said" });
    for (const { name, color, dash } of series) {
      const line = make("line", { x2: 28, y1: 6, y2: 6, class: "line", style: `stroke:${color}`, "stroke-dasharray": dash ?? "" });
      legend.append(make("svg", { viewBox: "0 0 28 12", class: "key", "aria-hidden": "true" }, line), `${name}  `);
    }
    box.append(when.row, play, svg, legend);
    draw();
  }

  const WIDGETS = { alpha, frames };
  document.addEventListener("DOMContentLoaded", () => {
    for (const [name, draw] of Object.entries(WIDGETS)) {
      for (const place of document.querySelectorAll(`.widget-${name}`)) {
        const live = make("div", { class: "widget-live" });
        draw(live, JSON.parse(place.querySelector("script").textContent));
        place.append(live);
        place.classList.add("ready"); // from here on the style sheet hides the still picture
      }
    }
  });
})();

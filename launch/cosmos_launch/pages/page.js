"use strict";
// Draws each figure of the page with Plotly, in the colours of page.css, and ties them together: charts over the same
// axis show the same part of it and the same step under the pointer; a curve is hidden by its name in all of them.

const plots = [...document.querySelectorAll(".plot")];
let isTied = false; // while other charts follow the range of one: what they report then is not followed

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function template() {
  const axis = { gridcolor: colour("--rule"), linecolor: colour("--rule") };
  return {
    layout: {
      font: { color: colour("--soft"), family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--rule"), font: { color: colour("--ink") } },
      paper_bgcolor: "transparent",
      plot_bgcolor: "transparent",
      xaxis: axis,
      yaxis: axis,
    },
  };
}

function paint({ data, layout }) {
  layout.template = template();
  for (const trace of data.filter((trace) => trace.meta !== undefined)) {
    const part = trace.type === "bar" ? "marker" : "line";
    trace[part] = { ...trace[part], color: colour(`--series-${trace.meta}`) };
  }
}

function others(plot) {
  return plots.filter((other) => other !== plot && other.dataset.axis && other.dataset.axis === plot.dataset.axis);
}

function isInView(plot) {
  const { top, bottom } = plot.getBoundingClientRect();
  return bottom > 0 && top < window.innerHeight;
}

async function tie(action) {
  if (isTied) return;
  isTied = true;
  try {
    await action();
  } finally {
    isTied = false;
  }
}

function followRange(plot, change) {
  if (!Object.keys(change).some((key) => key.startsWith("xaxis"))) return;
  const range = [...plot.layout.xaxis.range];
  tie(() => Promise.all(others(plot).map((other) => Plotly.relayout(other, { "xaxis.range": [...range] }))));
}

function followPointer(plot, event) {
  const isSilent = true; // no event of the others, which would be followed in turn
  others(plot).filter(isInView).forEach((other) => Plotly.Fx.hover(other, { xval: event.xvals[0] }, "xy", isSilent));
}

function wholeRange(axis) {
  const sharing = figures.filter((figure, index) => plots[index].dataset.axis === axis);
  const steps = sharing.flatMap((figure) => figure.data.flatMap((trace) => trace.x)).filter((step) => step !== null);
  const [low, high] = steps.reduce(([low, high], step) => [Math.min(low, step), Math.max(high, step)], [Infinity, -Infinity]);
  const margin = 0.02 * (high - low) || 1;
  return [low - margin, high + margin];
}

function showDrag(mode) {
  for (const name of ["zoom", "pan"]) document.getElementById(name).setAttribute("aria-pressed", name === mode);
}

function setDrag(mode) {
  showDrag(mode);
  plots.forEach((plot) => Plotly.relayout(plot, { dragmode: mode }));
}

function reset() {
  tie(() => Promise.all(plots.map((plot) => {
    const range = plot.dataset.axis ? { "xaxis.range": wholeRange(plot.dataset.axis) } : { "xaxis.autorange": true };
    return Plotly.relayout(plot, { ...range, "yaxis.autorange": true });
  })));
}

function setLogarithmic(button, plot) {
  const isLogarithmic = button.getAttribute("aria-pressed") === "false";
  button.setAttribute("aria-pressed", isLogarithmic);
  Plotly.relayout(plot, { "yaxis.type": isLogarithmic ? "log" : "linear", "yaxis.autorange": true });
}

function buttonsOf(element, name) {
  return [...element.querySelectorAll(".legend button")].filter((button) => button.dataset.name === name);
}

function setVisible(name, isVisible) {
  for (const button of buttonsOf(document, name)) button.setAttribute("aria-pressed", isVisible);
  for (const plot of plots) {
    const [button] = buttonsOf(plot.closest(".chart"), name);
    if (button) Plotly.restyle(plot, { visible: isVisible }, [Number(button.dataset.curve)]);
  }
}

const figures = plots.map((plot) => JSON.parse(plot.nextElementSibling.textContent));
// Where fingers scroll the page, a chart must not catch them before it is asked to.
const firstDrag = window.matchMedia("(hover: none)").matches ? false : "zoom";

plots.forEach((plot, index) => {
  const { data, layout } = figures[index];
  paint(figures[index]);
  layout.dragmode = firstDrag;
  if (plot.dataset.axis) layout.xaxis.range = wholeRange(plot.dataset.axis);
  Plotly.newPlot(plot, data, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  plot.on("plotly_relayout", (change) => followRange(plot, change));
  plot.on("plotly_hover", (event) => followPointer(plot, event));
  plot.on("plotly_unhover", () => others(plot).forEach((other) => Plotly.Fx.unhover(other)));
  const button = plot.closest(".chart").querySelector(".log");
  button.addEventListener("click", () => setLogarithmic(button, plot));
});

for (const mode of ["zoom", "pan"]) {
  const button = document.getElementById(mode);
  button.addEventListener("click", () => setDrag(button.getAttribute("aria-pressed") === "true" ? false : mode));
}
document.getElementById("reset").addEventListener("click", reset);
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => setVisible(button.dataset.name, button.getAttribute("aria-pressed") === "false"));
}
showDrag(firstDrag);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  plots.forEach((plot, index) => {
    paint(figures[index]);
    Plotly.react(plot, figures[index].data, figures[index].layout);
  });
});

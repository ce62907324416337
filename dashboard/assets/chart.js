// Draws a Plotly figure in the page and updates the same chart with new data, so that zoom, hidden traces and tooltips
// stay as they are.

// Loads Plotly from its address. Each chart has its own copy of this module, and the page may have started to load the
// file earlier (dashboard/server/asset_middleware.py), so the script element is what all of them share.
function plotly(address) {
  const source = new URL(address, document.baseURI).href;
  let script = [...document.scripts].find((one) => one.src === source);
  if (script?.plotly) return Promise.resolve(script.plotly);
  if (!script) {
    script = document.createElement("script");
    script.src = source;
    document.head.append(script);
  }
  return new Promise((resolve, reject) => {
    script.addEventListener("load", () => resolve((script.plotly ??= window.Plotly)));
    script.addEventListener("error", () => {
      script.remove(); // the next chart tries again
      reject(new Error("the chart library could not be loaded"));
    });
  });
}

// Draws the charts of a page one after the other and lets the browser paint each before the next begins.
function inTurn(task) {
  const shown = () => new Promise((resolve) => setTimeout(resolve));
  const turn = (window.dkdTurn ?? Promise.resolve()).then(task);
  window.dkdTurn = turn.catch(() => undefined).then(shown);
  return turn;
}

// Applies the colours of the page, so that a chart follows its light or dark mode.
function themed(layout, element) {
  const style = getComputedStyle(element);
  const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const text = read("--st-text-color", "#31333f");
  const background = read("--st-background-color", "#ffffff");
  const grid = style.color.replace(/^rgb\((.*)\)$/, "rgba($1, 0.15)");
  return coloured(layout, { text, background, grid, font: read("--st-font", "sans-serif") });
}

const PRINT = { text: "#222222", background: "#ffffff", grid: "#e3e3e3", font: "sans-serif" };

function coloured(layout, colours) {
  const drawn = { ...layout, autosize: true, paper_bgcolor: "rgba(0, 0, 0, 0)", plot_bgcolor: "rgba(0, 0, 0, 0)" };
  drawn.font = { size: 13, ...layout.font, color: colours.text, family: colours.font };
  drawn.hoverlabel = { ...layout.hoverlabel, bgcolor: colours.background, bordercolor: colours.grid };
  drawn.hoverlabel.font = { color: colours.text, family: colours.font };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    drawn[name] = { gridcolor: colours.grid, zerolinecolor: colours.grid, linecolor: colours.grid, ...layout[name] };
  }
  return drawn;
}

// A downloaded image is always dark on white, for print.
function save(plot, format) {
  const { layout, filename } = plot.dkd;
  const printed = { ...coloured(layout, PRINT), paper_bgcolor: PRINT.background };
  for (const name of Object.keys(printed).filter((key) => /^[xy]axis\d*$/.test(key))) {
    printed[name] = { ...printed[name], range: [...plot.layout[name].range], autorange: false };
  }
  const { width, height } = plot.getBoundingClientRect();
  return plot.dkdPlotly.downloadImage(
    { data: plot.data, layout: { ...printed, width, height }, config: {} },
    { format, filename, width, height, scale: format === "png" ? 3 : 1 },
  );
}

function config(Plotly) {
  const touch = window.matchMedia("(hover: none)").matches;
  const button = (format) => ({
    name: `save-${format}`,
    title: `Download as ${format.toUpperCase()}`,
    icon: format === "png" ? Plotly.Icons.camera : Plotly.Icons.disk,
    click: (plot) => save(plot, format),
  });
  return {
    displaylogo: false,
    displayModeBar: touch ? true : "hover",
    modeBarButtons: [[button("png"), button("svg")], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    scrollZoom: false,
  };
}

async function draw(plot, Plotly) {
  if (!plot.isConnected) return;
  if (plot.dkdPlotly && plot.dkdPlotly !== Plotly) plot.dkdPlotly.purge(plot); // one bundle cannot update a chart of the other
  plot.dkdPlotly = Plotly;
  const layout = themed(plot.dkd.layout, plot);
  if (window.matchMedia("(hover: none)").matches) layout.dragmode = false; // a finger scrolls the page
  // The same object each time: a new one, with new buttons, would make Plotly rebuild the chart and lose the zoom.
  plot.dkdConfig ??= config(Plotly);
  await Plotly.react(plot, plot.dkd.data, layout, plot.dkdConfig);
}

export default function ({ data, parentElement }) {
  let plot = parentElement.querySelector(".dkd-chart");
  if (!plot) {
    parentElement.replaceChildren();
    plot = document.createElement("div");
    plot.className = "dkd-chart";
    plot.setAttribute("role", "img");
    parentElement.append(plot);
    // Resizes also when a hidden tab is opened, in which the chart had no width.
    new ResizeObserver(() => {
      if (plot.data && plot.offsetWidth) plot.dkdPlotly.Plots.resize(plot);
    }).observe(plot);
    // The page sends no event when its colours change, but a CSS transition of a colour does (chart.css).
    plot.addEventListener("transitionend", (event) => {
      if (event.target === plot && event.propertyName === "outline-color") show(plot);
    });
  }
  if (plot.dkd?.figure === data.figure) return; // a refresh without new data
  const { data: traces, layout } = JSON.parse(data.figure);
  plot.dkd = { figure: data.figure, data: traces, layout, library: data.library, filename: data.filename };
  plot.setAttribute("aria-label", data.alt);
  plot.style.height = `${layout.height}px`;
  show(plot);
}

// Draws one figure at a time: with two at once, the older one could stay on the screen.
function show(plot) {
  plot.drawing = (plot.drawing ?? Promise.resolve())
    .then(() => plotly(plot.dkd.library))
    .then((Plotly) => inTurn(() => draw(plot, Plotly)))
    .catch((error) => {
      plot.textContent = `This chart cannot be drawn: ${error.message}.`;
    });
}

// Draws a Plotly figure in the page, and draws new data into the same chart: what a person has zoomed into, hidden or
// is pointing at stays as it is.

// Plotly by the address of its file. Each chart has a copy of this module, and the page may have begun to read the file
// before any of them came (dashboard/front.py): what they share is the element that reads it.
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
      reject(new Error("the drawing library could not be read"));
    });
  });
}

// One chart after the other on the whole page, and what is drawn is shown before the next begins.
function inTurn(task) {
  const shown = () => new Promise((resolve) => setTimeout(resolve));
  const turn = (window.dkdTurn ?? Promise.resolve()).then(task);
  window.dkdTurn = turn.catch(() => undefined).then(shown);
  return turn;
}

// The page's own colours, so that a chart follows its light and dark mode.
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

// A picture is for paper, whatever the page looks like.
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
  if (plot.dkdPlotly && plot.dkdPlotly !== Plotly) plot.dkdPlotly.purge(plot); // what one has drawn the other cannot change
  plot.dkdPlotly = Plotly;
  const layout = themed(plot.dkd.layout, plot);
  if (window.matchMedia("(hover: none)").matches) layout.dragmode = false; // a finger scrolls the page
  // The same object each time: another one, with buttons of its own, would have Plotly begin anew and forget the zoom.
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
    // Also when a hidden tab is opened, where a chart had no width before.
    new ResizeObserver(() => {
      if (plot.data && plot.offsetWidth) plot.dkdPlotly.Plots.resize(plot);
    }).observe(plot);
    // The page says nothing when its colours change; a transition of one of them does.
    plot.addEventListener("transitionend", (event) => {
      if (event.target === plot && event.propertyName === "outline-color") show(plot);
    });
  }
  if (plot.dkd?.figure === data.figure) return; // a refresh that brings nothing new
  const { data: traces, layout } = JSON.parse(data.figure);
  plot.dkd = { figure: data.figure, data: traces, layout, library: data.library, filename: data.filename };
  plot.setAttribute("aria-label", data.alt);
  plot.style.height = `${layout.height}px`;
  show(plot);
}

// One drawing after the other: two at once would leave the older one on the screen.
function show(plot) {
  plot.drawing = (plot.drawing ?? Promise.resolve())
    .then(() => plotly(plot.dkd.library))
    .then((Plotly) => inTurn(() => draw(plot, Plotly)))
    .catch((error) => {
      plot.textContent = `This chart cannot be drawn: ${error.message}.`;
    });
}

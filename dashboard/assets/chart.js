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

// Breaks the titles of horizontal axes into lines that fit beside the ticks of the other axis, as on a phone.
function fitted(layout, width) {
  const characters = Math.max(12, Math.floor((width - 130) / 7.3));
  for (const name of Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key))) {
    const text = layout[name].title?.text ?? "";
    if (text.length <= characters) continue;
    const lines = [""];
    for (const word of text.split(" ")) {
      const line = `${lines.at(-1)} ${word}`.trim();
      if (lines.at(-1) && line.length > characters) lines.push(word);
      else lines[lines.length - 1] = line;
    }
    layout[name].title = { ...layout[name].title, text: lines.join("<br>") };
  }
  return layout;
}

// A downloaded image is always dark on white, for print. A legend of families, which is beside the chart on the page, is
// drawn into the image.
function save(plot, format) {
  const { layout, filename } = plot.dkd;
  const printed = { ...coloured(layout, PRINT), paper_bgcolor: PRINT.background };
  const families = layout.meta?.families;
  if (layout.meta?.legend) {
    printed.showlegend = true;
    printed.legend = { ...layout.legend, y: 1.02, yanchor: "bottom" };
  }
  if (families) {
    printed.showlegend = true;
    printed.legend = { orientation: "v", x: 1.02, y: 1, yanchor: "top", tracegroupgap: 4 };
    Object.assign(printed.legend, { font: { size: 10 }, grouptitlefont: { size: 11 } });
  }
  withShownRanges(printed, plot);
  const { width, height: shown } = plot.getBoundingClientRect();
  const lines = (families ?? []).reduce((sum, family) => sum + family.methods.length + 1.5, 0);
  const height = Math.max(shown, 21 * lines + 40);
  return plot.dkdPlotly.downloadImage(
    { data: plot.data, layout: { ...printed, width, height }, config: {} },
    { format, filename, width, height, scale: format === "png" ? 3 : 1 },
  );
}

function withShownRanges(printed, plot) {
  for (const name of Object.keys(printed).filter((key) => /^[xy]axis\d*$/.test(key))) {
    printed[name] = { ...printed[name], range: [...plot.layout[name].range], autorange: false };
  }
  return printed;
}

function saveForPrint(plot, kind) {
  const printed = { ...coloured(plot.dkd.layout, PRINT), paper_bgcolor: PRINT.background };
  return saveColumn(plot, withShownRanges(printed, plot), kind);
}

function config(Plotly) {
  const touch = window.matchMedia("(hover: none)").matches;
  const button = (format) => ({
    name: `save-${format}`,
    title: `Download as ${format.toUpperCase()}`,
    icon: format === "png" ? Plotly.Icons.camera : Plotly.Icons.disk,
    click: (plot) => save(plot, format),
  });
  const columns = Object.keys(COLUMNS).map((kind) => ({
    name: `save-${kind}`,
    title: `Download SVG for ${COLUMNS[kind].title}`,
    icon: COLUMN_ICONS[kind],
    click: (plot) => saveForPrint(plot, kind),
  }));
  return {
    displaylogo: false,
    displayModeBar: touch ? true : "hover",
    modeBarButtons: [
      [button("png"), button("svg"), ...columns],
      ["zoom2d", "pan2d"],
      ["zoomIn2d", "zoomOut2d", "resetScale2d"],
    ],
    scrollZoom: false,
  };
}

// Makes one method of many visible: its band appears, and the others fade. Without a method all are as drawn.
function highlight(plot, method) {
  plot.dkdHighlighted = method;
  for (const group of plot.querySelectorAll(".scatterlayer .trace")) {
    const trace = group.__data__?.[0]?.trace;
    const own = trace?.meta?.method;
    if (!own) continue;
    const usual = trace.opacity ?? 1;
    group.style.opacity = method === undefined ? usual : own === method ? 1 : Math.min(usual, 0.08);
  }
  for (const entry of plot.dkdLegend?.querySelectorAll("[data-method]") ?? []) {
    entry.classList.toggle("dkd-current", entry.dataset.method === method);
  }
}

// Draws a legend of families below a chart with many methods. The pointer on a method highlights its curve, and a click
// hides it; a click on a family hides all of its methods, or shows them again.
function drawLegend(plot) {
  const families = plot.dkd.layout.meta?.families;
  if (!families) {
    plot.dkdLegend?.remove();
    plot.dkdLegend = undefined;
    return;
  }
  plot.dkdHidden ??= new Set();
  if (!plot.dkdLegend) {
    plot.dkdLegend = document.createElement("div");
    plot.dkdLegend.className = "dkd-legend";
    plot.after(plot.dkdLegend);
  }
  const toggle = (methods) => {
    const allHidden = methods.every((method) => plot.dkdHidden.has(method));
    for (const method of methods) allHidden ? plot.dkdHidden.delete(method) : plot.dkdHidden.add(method);
    plot.dkdHighlighted = undefined;
    show(plot);
  };
  plot.dkdLegend.replaceChildren(
    ...families.map((family) => {
      const group = document.createElement("div");
      const methods = family.methods.map((item) => item.method);
      const title = button(family.title, () => toggle(methods));
      title.className = "dkd-family";
      title.setAttribute("aria-pressed", String(!methods.every((method) => plot.dkdHidden.has(method))));
      group.append(title, ...family.methods.map((item) => legendEntry(plot, item, () => toggle([item.method]))));
      return group;
    }),
  );
}

function button(text, click) {
  const made = document.createElement("button");
  made.type = "button";
  made.append(text);
  made.addEventListener("click", click);
  return made;
}

const DASHES = { solid: "", dot: "2 3", dash: "7 4", longdash: "12 4", dashdot: "7 3 2 3", longdashdot: "12 3 2 3" };

function legendEntry(plot, item, click) {
  const entry = button("", click);
  entry.dataset.method = item.method;
  entry.setAttribute("aria-pressed", String(!plot.dkdHidden.has(item.method)));
  const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ width: 28, height: 10 })) sample.setAttribute(name, value);
  const drawn = { x1: 1, x2: 27, y1: 5, y2: 5, stroke: item.colour, "stroke-width": 3 };
  for (const [name, value] of Object.entries({ ...drawn, "stroke-dasharray": DASHES[item.dash] ?? "" })) {
    line.setAttribute(name, value);
  }
  sample.append(line);
  entry.append(sample, item.label);
  for (const event of ["mouseenter", "focus"]) entry.addEventListener(event, () => highlight(plot, item.method));
  for (const event of ["mouseleave", "blur"]) entry.addEventListener(event, () => highlight(plot));
  return entry;
}

// The address that a click on a point opens: a trace has one for all its points, or one per point.
function linkOf(point) {
  const meta = point?.data.meta;
  const link = meta?.links?.[point.pointNumber] ?? meta?.link ?? "";
  return /^(run|runs|experiment|compare)\?/.test(link) ? link : "";
}

// Returns the point next to the pointer: a tooltip over all curves at an epoch reports a point of each.
function nearest(plot, event) {
  const y = event.event.clientY - plot.getBoundingClientRect().top;
  const distance = (point) => {
    const axis = point.yaxis;
    return axis ? Math.abs(axis.l2p(axis.d2l(point.y)) + axis._offset - y) : 0;
  };
  return [...event.points].sort((one, other) => distance(one) - distance(other)).find(linkOf);
}

function follow(plot) {
  if (plot.dkdFollows) return;
  plot.dkdFollows = true;
  plot.on("plotly_click", (event) => {
    const link = linkOf(nearest(plot, event));
    if (link) window.open(new URL(link, document.baseURI), "_blank", "noopener");
  });
  shareZoom(plot);
}

async function draw(plot, Plotly) {
  if (!plot.isConnected) return;
  if (plot.dkdPlotly && plot.dkdPlotly !== Plotly) {
    plot.dkdPlotly.purge(plot); // one bundle cannot update a chart of the other
    plot.dkdFollows = false;
  }
  plot.dkdPlotly = Plotly;
  const layout = withSharedRange(fitted(themed(plot.dkd.layout, plot), plot.offsetWidth));
  if (window.matchMedia("(hover: none)").matches) layout.dragmode = false; // a finger scrolls the page
  // The same object each time: a new one, with new buttons, would make Plotly rebuild the chart and lose the zoom.
  plot.dkdConfig ??= config(Plotly);
  const hidden = plot.dkdHidden ?? new Set();
  const data = plot.dkd.data.map((trace) => (hidden.has(trace.meta?.method) ? { ...trace, visible: false } : trace));
  drawLegend(plot);
  await Plotly.react(plot, data, layout, plot.dkdConfig);
  follow(plot);
  if (plot.dkdLegend) highlight(plot, plot.dkdHighlighted);
  if (plot.dkdLegend && !plot.dkdHovers) {
    plot.dkdHovers = true;
    plot.on("plotly_hover", (event) => highlight(plot, event.points[0]?.data.meta?.method));
    plot.on("plotly_unhover", () => highlight(plot));
  }
}

export default function ({ data, parentElement }) {
  // Streamlit has put the style sheet into the parent, so the chart is added to what is there.
  let plot = parentElement.querySelector(".dkd-chart");
  if (!plot) {
    plot = document.createElement("div");
    plot.className = "dkd-chart";
    plot.setAttribute("role", "figure"); // not img, which must not contain the buttons of the corner
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

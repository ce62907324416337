// Saves a chart as an SVG that fits a column of a paper. Its text is at least 7 pt high in that size, and every curve has
// a marker and a dash of its own, by which curves can be told apart in grey print.

const COLUMNS = {
  column: { title: "one column of a paper (8.3 cm)", millimetres: 82.5, share: 0.66 },
  "two-columns": { title: "two columns of a paper (17.1 cm)", millimetres: 171, share: 0.42 },
};
const PIXELS_PER_MM = 96 / 25.4;
const TEXT = 10; // pixels, which are 7.5 pt
const SMALL_TEXT = 9.5; // 7.1 pt
const CHARACTER = 5.3; // mean width of a character of the text, in pixels
const PRINT_DASHES = ["solid", "7px,2.5px", "1.5px,2px", "7px,2px,1.5px,2px", "12px,3px", "3.5px,2px"];
const PRINT_MARKERS = ["circle", "square", "triangle-up", "x-thin", "diamond", "cross-thin", "triangle-down"];
const THIN = /-thin$/;

// Returns the name of the curve that a trace belongs to; nothing for a trace that is no curve.
function curveOf(trace) {
  const line = (trace.type ?? "scatter") === "scatter" && (trace.mode ?? "lines").includes("lines");
  if (!line || trace.fill === "toself" || trace.hoverinfo === "skip") return undefined;
  return trace.meta?.method ?? trace.legendgroup ?? trace.name;
}

function printedTrace(trace, curves) {
  const printed = { ...trace, legendgroup: undefined, legendgrouptitle: undefined };
  if (trace.fill === "toself") printed.opacity = trace.opacity === 0 ? 0 : 0.6;
  const place = curves.indexOf(curveOf(trace));
  if (place < 0) return printed;
  const symbol = PRINT_MARKERS[place % PRINT_MARKERS.length];
  const second = trace.yaxis === "y2";
  printed.mode = "lines+markers";
  printed.line = { ...trace.line, width: second ? 0.8 : 1.3 };
  printed.line.dash = PRINT_DASHES[place % PRINT_DASHES.length];
  printed.marker = { ...trace.marker, size: 5, maxdisplayed: 9 };
  // The right axis has the open form of a method's marker. A cross has no area: only its stroke is drawn.
  printed.marker.symbol = THIN.test(symbol) || second ? `${symbol}-open` : symbol;
  printed.marker.line = { ...trace.marker?.line, width: THIN.test(symbol) || second ? 1.2 : 0 };
  return printed;
}

// Breaks a title into lines, so that it fits beside its axis.
function wrapped(title, pixels) {
  const most = Math.max(12, Math.floor(pixels / CHARACTER));
  const lines = [""];
  const text = (title?.text ?? "").replaceAll("<br>", " ").replace(/, dashed$/, ", open markers");
  for (const word of text.split(" ")) {
    const line = lines.at(-1);
    if (line && line.length + word.length + 1 > most) lines.push(word);
    else lines[lines.length - 1] = line ? `${line} ${word}` : word;
  }
  return { ...title, text: lines.join("<br>"), font: { ...title?.font, size: TEXT }, standoff: 6 };
}

function columnFigure(plot, layout, column) {
  const visible = plot.data.filter((trace) => trace.visible !== false);
  const curves = [...new Set(visible.map(curveOf).filter((name) => name !== undefined))];
  const data = visible.map((trace) => printedTrace(trace, curves));
  const width = Math.round(column.millimetres * PIXELS_PER_MM);
  const named = data.filter((trace) => trace.showlegend !== false && trace.name);
  const rows = plot.layout.yaxis?.type === "category" || layout.meta?.rows;
  const shown = plot.dkd.layout.showlegend !== false || Boolean(layout.meta?.families ?? layout.meta?.legend);
  const legend = shown && named.length > 1;
  // Lines of the legend: an entry takes its text and about 45 pixels of line and gaps.
  const widest = Math.max(0, ...named.map((trace) => String(trace.name).length * CHARACTER + 45));
  const lines = legend ? Math.ceil(named.length / Math.max(1, Math.floor((width - 40) / widest))) : 0;
  const base = rows ? Math.max(width * column.share * 0.7, plot.dkd.layout.height * 0.72) : width * column.share;
  const height = Math.round(base + 18 * lines);
  const printed = { ...layout, width, height, showlegend: legend, title: undefined, margin: { l: 4, r: 6, t: 4, b: 4 } };
  printed.font = { ...layout.font, size: SMALL_TEXT };
  printed.legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: SMALL_TEXT }, itemwidth: 30 };
  printed.legend.title = { text: "" };
  for (const name of Object.keys(printed).filter((key) => /^[xy]axis\d*$/.test(key))) {
    const across = name.startsWith("x");
    printed[name] = { ...printed[name], automargin: true, tickfont: { size: SMALL_TEXT }, nticks: across ? 7 : 6 };
    printed[name].title = wrapped(printed[name].title, across ? width - 60 : base - 50);
    Object.assign(printed[name], { linecolor: "#444444", linewidth: 0.8, showline: true, ticks: "outside", ticklen: 3 });
  }
  return { data, layout: printed, width, height };
}

async function saveColumn(plot, layout, kind) {
  const column = COLUMNS[kind];
  const figure = columnFigure(plot, layout, column);
  const { width, height } = figure;
  const options = { format: "svg", width, height, imageDataOnly: true };
  const svg = await plot.dkdPlotly.toImage({ data: figure.data, layout: figure.layout, config: {} }, options);
  const image = new DOMParser().parseFromString(svg, "image/svg+xml").documentElement;
  image.setAttribute("viewBox", `0 0 ${width} ${height}`);
  image.setAttribute("width", `${column.millimetres}mm`);
  image.setAttribute("height", `${(height / PIXELS_PER_MM).toFixed(2)}mm`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(image)], { type: "image/svg+xml" }));
  link.download = `${plot.dkd.filename}-${kind}.svg`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Two icons: a page with one narrow column of lines, and with lines over both columns.
const COLUMN_ICONS = {
  column: { width: 24, height: 24, path: "M3 2h18v20H3zM5 4v16h14V4zM7 6h4v2H7zM7 9h4v2H7zM7 12h4v2H7zM7 15h4v2H7z" },
  "two-columns": {
    width: 24,
    height: 24,
    path: "M3 2h18v20H3zM5 4v16h14V4zM7 6h10v2H7zM7 9h10v2H7zM7 12h10v2H7zM7 15h10v2H7z",
  },
};

// The charts of a board share their x axis: a zoom of one applies to all, and stays when new points come.

const boardRanges = (window.dkdBoardRanges ??= new Map()); // by the board

// Sets the range of the shared axis in a layout that is about to be drawn.
function withSharedRange(layout) {
  const range = boardRanges.get(layout.meta?.board);
  if (range) layout.xaxis = { ...layout.xaxis, range: [...range], autorange: false };
  return layout;
}

function shareZoom(plot) {
  plot.on("plotly_relayout", (change) => {
    const board = plot.dkd.layout.meta?.board;
    if (!board || plot.dkdFollowsZoom) return;
    const zoomed = change["xaxis.range[0]"] !== undefined || change["xaxis.range"] !== undefined;
    if (!zoomed && change["xaxis.autorange"] !== true) return;
    if (zoomed) boardRanges.set(board, [...plot.layout.xaxis.range]);
    else boardRanges.delete(board);
    const range = boardRanges.get(board);
    for (const other of document.querySelectorAll(".dkd-chart")) {
      if (other === plot || other.dkd?.layout.meta?.board !== board || !other.data) continue;
      other.dkdFollowsZoom = true;
      const axis = range ? { "xaxis.range": [...range], "xaxis.autorange": false } : { "xaxis.autorange": true };
      other.dkdPlotly.relayout(other, axis).finally(() => (other.dkdFollowsZoom = false));
    }
  });
}

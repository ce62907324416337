// Streamlit 1.67 adds two entries to the browser's history in two cases; here the second replaces the first.
// - A link to another page with a query: the first entry is the old page with the new query, which was never shown.
// - A button that sets two values kept in the address: there is one entry per value.
(() => {
  const push = history.pushState.bind(history);
  let last = { time: 0, left: "" };
  history.pushState = (state, title, address) => {
    const to = new URL(address ?? location.href, location.href);
    const since = performance.now() - last.time;
    const here = location.pathname === last.left;
    const stray = since < 500 && here && to.search === location.search && to.pathname !== last.left;
    const same = since < 100 && here && to.pathname === last.left;
    last = stray ? { time: 0, left: "" } : { time: performance.now(), left: location.pathname };
    if (stray || same) history.replaceState(state, title, address);
    else push(state, title, address);
  };
})();

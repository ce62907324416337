// Streamlit 1.67 makes two entries of the browser's history where one is meant; the second takes the first one's place.
// - A link to another page with a query: first the page that is left with the new query, which nobody has seen.
// - A button that sets two values which the address keeps: an entry for each.
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

// Streamlit 1.67 makes two entries of the browser's history where a link leads to another page with a query: first the
// page that is left with the new query, then the page that is meant. Back would lead to the first, which nobody has
// seen; the second takes its place.
(() => {
  const push = history.pushState.bind(history);
  let last = { time: 0, left: "" };
  history.pushState = (state, title, address) => {
    const to = new URL(address ?? location.href, location.href);
    const stray = performance.now() - last.time < 500 && to.search === location.search
      && location.pathname === last.left && to.pathname !== last.left;
    last = stray ? { time: 0, left: "" } : { time: performance.now(), left: location.pathname };
    if (stray) history.replaceState(state, title, address);
    else push(state, title, address);
  };
})();

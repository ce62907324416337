// Streamlit 1.67 adds two entries to the browser's history in two cases; here the second replaces the first.
// - A link to another page with a query: the first entry is the old page with the new query, which was never shown.
// - A button that sets two values kept in the address: there is one entry per value.
// Both are recognised by what the person did, not by time: on a slow machine the entries of one click come late.
(() => {
  const push = history.pushState.bind(history);
  let left = ""; // path of the page on which the last entry was added
  let acted = true; // whether the person did something since then
  for (const type of ["pointerdown", "keydown", "popstate"]) addEventListener(type, () => (acted = true), true);
  history.pushState = (state, title, address) => {
    const to = new URL(address ?? location.href, location.href);
    const again = !acted && location.pathname === left;
    const same = again && to.pathname === left;
    const stray = again && to.pathname !== left && to.search === location.search;
    left = stray ? "" : location.pathname;
    acted = false;
    if (stray || same) history.replaceState(state, title, address);
    else push(state, title, address);
  };
})();

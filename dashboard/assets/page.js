// Streamlit scrolls within an element and draws every page from its top. After Back, Forward and a reload, the page
// returns to where it was.
(() => {
  const KEY = "dkd-lab-scroll";
  const TICK = 100; // in ms
  const MOST = 20_000; // ms for which a slow page may still grow
  const places = JSON.parse(sessionStorage.getItem(KEY) ?? "{}"); // by address
  const main = () => document.querySelector('[data-testid="stMain"]');
  const ended = () => document.querySelector('[data-testid="stApp"][data-test-script-state="notRunning"]');
  let timer;
  const stop = () => (timer = clearInterval(timer));
  function restore() {
    stop();
    const top = places[location.href] ?? 0;
    const since = Date.now();
    let still = 0; // ticks for which the page has been there and drawn
    timer = setInterval(() => {
      const element = main();
      if (element && Math.abs(element.scrollTop - top) > 1) element.scrollTop = top;
      const there = element && Math.abs(element.scrollTop - top) <= 1 && ended();
      still = there ? still + 1 : 0;
      if (still >= 8 || Date.now() - since > MOST) stop();
    }, TICK);
  }
  addEventListener("popstate", restore);
  const [{ type } = {}] = performance.getEntriesByType("navigation");
  if (type === "reload" || type === "back_forward") restore();
  for (const action of ["wheel", "touchstart", "pointerdown", "keydown"]) addEventListener(action, stop, true);
  // A place counts if a person has scrolled there. Before another page is drawn, this one shrinks, which scrolls it too,
  // sometimes while the address is still its own.
  const KEYS = ["ArrowDown", "ArrowUp", "End", "Home", "PageDown", "PageUp", " "];
  let until = 0; // until when scrolling is a person's
  const moves = (ms) => (until = Date.now() + ms);
  addEventListener("wheel", () => moves(500), true);
  addEventListener("touchmove", () => moves(2000), true); // it rolls on after the finger is gone
  addEventListener("keydown", ({ key }) => KEYS.includes(key) && moves(500), true);
  addEventListener("pointerdown", () => moves(60_000), true); // the scroll bar
  for (const action of ["pointerup", "pointercancel", "click"]) addEventListener(action, () => moves(0), true);
  addEventListener(
    "scroll",
    ({ target }) => {
      if (!timer && target === main() && Date.now() < until) places[location.href] = target.scrollTop;
    },
    true,
  );
  addEventListener("pagehide", () => sessionStorage.setItem(KEY, JSON.stringify(places)));
})();

// In a table with check boxes, the space bar selects the row of the cell that has the focus, as a check box would be. The
// table itself knows only Shift and space.
addEventListener(
  "keydown",
  (event) => {
    const plain = event.key === " " && !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey;
    if (!plain || !event.isTrusted || !event.target.closest?.('[data-testid="stDataFrame"]')) return;
    if (event.target.matches("input, textarea")) return; // its search
    event.preventDefault();
    event.stopImmediatePropagation();
    const chord = { key: " ", code: "Space", keyCode: 32, which: 32, shiftKey: true, bubbles: true, cancelable: true };
    event.target.dispatchEvent(new KeyboardEvent("keydown", { ...chord, composed: true }));
  },
  true,
);

// Streamlit sets the colour scheme of the app only. Dialogs and lists stand beside it; they appear in the body.
addEventListener("DOMContentLoaded", () => {
  new MutationObserver(() => {
    const app = document.querySelector('[data-testid="stApp"]');
    if (app) document.body.style.colorScheme = getComputedStyle(app).colorScheme;
  }).observe(document.body, { childList: true });
});

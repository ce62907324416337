// Ends the session of this browser: dashboard/server/gate.py removes it, and answers how to come back.
export default function () {
  window.location.replace(new URL("./end-session", window.location.href));
}

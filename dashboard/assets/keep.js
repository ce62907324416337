// Stores a person's token in this browser, so that a reload or a link in the same tab needs no new sign-in.
const KEY = "dkd-lab-token";

export default function ({ data, setStateValue }) {
  if (data.forget) {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    sessionStorage.removeItem("dkd-lab-draft"); // written by draft.js
  } else if (data.token) {
    (data.stay ? localStorage : sessionStorage).setItem(KEY, data.token);
    setStateValue("kept", true);
  } else {
    const held = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
    if (held) setStateValue("token", held);
  }
}

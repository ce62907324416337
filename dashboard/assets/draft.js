// Keeps the draft of a new experiment in this tab, so that it survives a reload.
const KEY = "dkd-lab-draft";

export default function ({ data, setStateValue }) {
  if (data.read) setStateValue("found", sessionStorage.getItem(KEY) ?? "");
  else if (data.text) sessionStorage.setItem(KEY, data.text);
  else sessionStorage.removeItem(KEY);
}

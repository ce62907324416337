"""The dashboard's entry point: ``streamlit run dashboard/app.py``."""

from __future__ import annotations

import streamlit as st

from dashboard import back, login, session
from dashboard.views import compare, loss_explorer, new_experiment, overview, results, run, runs, teachers, workers

# Streamlit leaves a third of a phone's screen empty above the title, and its own titles are as large as a poster's.
# What a form makes stays in sight beside it where there is room for two columns.
_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 4rem; padding-bottom: 3rem; }
[data-testid="stMainBlockContainer"] h1 { font-size: 2rem; padding: 0.25rem 0; }
[data-testid="stMainBlockContainer"] h3 { font-size: 1.3rem; padding: 0.5rem 0 0.25rem; }
@media (min-width: 800px) {
  [data-testid="stColumn"]:has(> * .st-key-beside) {
    position: sticky; top: 4rem; align-self: flex-start; max-height: calc(100vh - 5rem); overflow-y: auto;
  }
}
</style>"""


def main() -> None:
    st.set_page_config(page_title="DKD Lab", page_icon=":material/insights:", layout="wide")
    listed = [
        st.Page(overview.show, title="Overview", icon=":material/dashboard:", default=True),
        st.Page(new_experiment.show, title="New experiment", icon=":material/add_circle:", url_path="new"),
        st.Page(runs.show, title="Runs", icon=":material/list:", url_path="runs"),
        st.Page(run.show, title="Run", icon=":material/show_chart:", url_path="run"),
        st.Page(compare.show, title="Compare", icon=":material/stacked_line_chart:", url_path="compare"),
        st.Page(results.show, title="Results", icon=":material/table_chart:", url_path="results"),
        st.Page(loss_explorer.show, title="Loss explorer", icon=":material/functions:", url_path="loss"),
        st.Page(teachers.show, title="Teachers", icon=":material/school:", url_path="teachers"),
        st.Page(workers.show, title="Workers", icon=":material/dns:", url_path="workers"),
    ]
    session.register({item.url_path or "overview": item for item in listed})
    st.html(_STYLE)
    with session.guarded():
        shown = [*listed]
        if login.mode() != "none":
            shown.append(st.Page(login.sign_out, title="Sign out", icon=":material/logout:", url_path="sign-out"))
        outside = login.required()
        # Also of those outside, so that their link still leads to its page once they have come in.
        chosen = st.navigation(shown, position="hidden" if outside else "top")
        if not outside:
            chosen.run()
        back.mend()


main()

"""One module a page, each with a function ``show``.

Not called ``pages``: Streamlit takes a folder of that name beside its script as pages of its own, and a first visit by
a deep link would then run the module instead of ``script.py``.
"""

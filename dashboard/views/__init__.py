"""The pages, one module each with a function ``show``.

The folder is not named ``pages``: Streamlit treats a folder of that name beside its script as pages, and a first visit
by a deep link would then run the module instead of ``script.py``.
"""

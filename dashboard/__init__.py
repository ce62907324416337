"""The Streamlit dashboard: submit, watch and compare experiments in a browser. Speaks HTTP only, through ``client``."""

"""The Streamlit dashboard, in which people submit, watch and compare experiments. It uses only ``client`` for data."""

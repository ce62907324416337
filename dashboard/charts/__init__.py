"""Figures: pure functions from curves to Plotly figures, and the component that draws them."""

"""Charts: pure functions that convert curves to Plotly figures, and the component that draws them."""

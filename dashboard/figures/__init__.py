"""Pure functions from a report to a Plotly figure; no module here imports streamlit."""

"""The dashboard's server; start it with `streamlit run dashboard/app.py`.

Streamlit has no setting for security headers, so its own web application gets them here. Every
visitor runs `navigation.py`.
"""

from __future__ import annotations

from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from dashboard.security_headers import SecurityHeaders

app = App(Path(__file__).with_name("navigation.py"), middleware=[Middleware(SecurityHeaders)])

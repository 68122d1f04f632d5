"""Serves Airflow's own app, with the plugins of this repository: a process of its own, because Airflow reads its
settings when it is imported. Writes down a token per role, the page's routes, and which heavy modules it has loaded.

usage: python airflow_server.py PORT FACTS_FILE
"""

import json
import sys
from pathlib import Path

import uvicorn
from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.utils.db import initdb
from starlette.routing import Mount

port, facts_file = int(sys.argv[1]), Path(sys.argv[2])
initdb()
app = create_app(apps="core")
(page,) = [route for route in app.routes if isinstance(route, Mount) and route.path == "/fracture-worklist"]
facts = {
    "tokens": {
        role: get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=f"a.{role.lower()}", role=role))
        for role in ("VIEWER", "USER")
    },
    "routes": [[method, route.path] for route in page.routes for method in sorted(route.methods)],
    "heavy_modules": [name for name in ("torch", "torchvision", "optuna", "matplotlib") if name in sys.modules],
}
facts_file.write_text(json.dumps(facts))
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")

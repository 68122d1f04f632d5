"""Puts the worklist page into Airflow's nav."""

from typing import ClassVar

from airflow.plugins_manager import AirflowPlugin


class WorklistPage:
    """The page's FastAPI app, imported by its first request.

    Every task and the scheduler load plugins too, and would import a web server's worth of modules for nothing.
    """

    @property
    def routes(self) -> list:
        from fracture_worklist.app import app

        return app.routes

    async def __call__(self, scope, receive, send) -> None:
        from fracture_worklist.app import app

        await app(scope, receive, send)


class WorklistPlugin(AirflowPlugin):
    name = "fracture_worklist"
    fastapi_apps: ClassVar = [{"app": WorklistPage(), "url_prefix": "/fracture-worklist", "name": "Fracture worklist"}]
    external_views: ClassVar = [
        {
            "name": "Fracture worklist",
            "href": "fracture-worklist/",
            "destination": "nav",
            "url_route": "worklist",
            "nav_top_level": True,
        }
    ]

"""The routes of the worklist page, behind Airflow's login: who may see the scoring DAG's runs may look, who may start
one may act. Nothing is opened before the first request that needs it."""

from functools import cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import AwareDatetime, BaseModel, Field

from fracture_ml.core.errors import (
    Conflict,
    DatabaseUnavailable,
    FractureError,
    InvalidSettings,
    NotAllowed,
    ObjectNotFound,
    SchemaMismatch,
    StorageUnavailable,
    UnknownItem,
    UnknownRadiograph,
    UnknownVersion,
    UnusableObject,
)
from fracture_ml.steps import model_card, worklist
from fracture_ml.steps.ai_report import ai_report
from fracture_ml.steps.context import open_context
from fracture_ml.steps.settings import load_settings
from fracture_ml.stores import Stores
from fracture_worklist.pictures import Pictures

SCORE_DAG = "score_hourly"
WRITE_HEADER = "X-Fracture-Worklist"
STATIC_FILES = {
    "worklist.css": "text/css",
    "worklist.js": "text/javascript",
    "viewer.js": "text/javascript",
    "server.js": "text/javascript",
}
STATUS_OF_ERROR = {
    Conflict: 409,
    NotAllowed: 409,
    UnknownItem: 404,
    UnknownRadiograph: 404,
    UnknownVersion: 404,
    ObjectNotFound: 404,
    UnusableObject: 422,
    DatabaseUnavailable: 503,
    StorageUnavailable: 503,
    SchemaMismatch: 503,
    InvalidSettings: 503,
}
# Everything comes from this server; pictures are blobs of the page's own making.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# A model card or a report is one file with its style and pictures in it, and runs nothing.
DOCUMENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'; sandbox"

may_look = requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN, param_dag_id=SCORE_DAG)
may_act = requires_access_dag(method="POST", access_entity=DagAccessEntity.RUN, param_dag_id=SCORE_DAG)


def finds_may_act(request: Request, user: GetUserDep) -> bool:
    """Whether the page offers its buttons; `may_act` is what guards them."""
    try:
        may_act(request, user)
    except HTTPException:
        return False
    return True


def from_this_page(request: Request) -> None:
    """Refuse what a foreign page's form could send: it can set neither this content type nor our header."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send JSON, with the content type application/json.")
    if WRITE_HEADER not in request.headers:
        raise HTTPException(403, f"Send the header {WRITE_HEADER}: this request did not come from the worklist page.")


_opening = Lock()
_open_once = cache(open_context)


def opened_stores() -> Stores:
    """The api-server's own small engine and bucket, opened by the first request that needs them."""
    with _opening:
        return _open_once()


OpenedStores = Annotated[Stores, Depends(opened_stores)]
pictures = Pictures(max_bytes=128 * 2**20)

app = FastAPI(
    title="Fracture worklist", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(may_look)]
)
writing = [Depends(may_act), Depends(from_this_page)]


class Seen(BaseModel):
    """What every action carries: the version of the item that the person saw."""

    row_version: int


class Acknowledgement(Seen):
    """ACR's six fields."""

    finding: str = Field(min_length=1, max_length=500)
    found_at: AwareDatetime
    told_by: str = Field(min_length=1, max_length=200)
    told_to: str = Field(min_length=1, max_length=200)
    told_at: AwareDatetime
    told_how: str = Field(min_length=1, max_length=200)


class FinalRead(Seen):
    value: Literal["positive", "negative", "uncertain"]
    comment: str = Field(default="", max_length=2000)
    radiograph_ids: list[int] | None = None  # what the page showed: a late image was not read


@app.middleware("http")
async def harden(request: Request, call_next) -> Response:
    response = await call_next(request)
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@app.exception_handler(FractureError)
def say_what_to_do(request: Request, error: FractureError) -> JSONResponse:
    """The message of one of our own errors is a sentence for people."""
    status = next((status for kind, status in STATUS_OF_ERROR.items() if isinstance(error, kind)), 500)
    return JSONResponse({"detail": str(error), "error": type(error).__name__}, status)


@app.exception_handler(RequestValidationError)
def name_the_fields(request: Request, error: RequestValidationError) -> JSONResponse:
    names = sorted({str(fault["loc"][-1]).replace("_", " ") for fault in error.errors()})
    return JSONResponse({"detail": f"Missing or not understood: {', '.join(names)}."}, 422)


@app.exception_handler(Exception)
def say_that_it_failed(request: Request, error: Exception) -> JSONResponse:
    """The trace goes to the api-server's log, a sentence to the browser."""
    return JSONResponse({"detail": "The server could not do this; its log says why. Nothing was changed."}, 500)


@app.get("/")
def page() -> FileResponse:
    return FileResponse(Path(__file__).parent / "static" / "worklist.html", media_type="text/html")


@app.get("/static/{name}")
def static_file(name: str) -> FileResponse:
    if name not in STATIC_FILES:
        raise HTTPException(404, "There is no such file.")
    # Asked for each time and answered by 304: an upgrade shows at once.
    return FileResponse(
        Path(__file__).parent / "static" / name, media_type=STATIC_FILES[name], headers={"Cache-Control": "no-cache"}
    )


@app.get("/api/me")
def me(user: GetUserDep, acts: Annotated[bool, Depends(finds_may_act)]) -> dict:
    return {"name": user.get_name(), "may_act": acts}


@app.get("/api/open")
def open_list(
    stores: OpenedStores,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict:
    return worklist.open_list(stores, limit=limit, offset=offset)


@app.get("/api/finished")
def finished_list(
    stores: OpenedStores,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict:
    return worklist.finished_list(stores, limit=limit, offset=offset)


@app.get("/api/items/{study_key}")
def item(study_key: str, user: GetUserDep, stores: OpenedStores) -> dict:
    return worklist.item(stores, study_key, reader=user.get_name())


@app.post("/api/items/{study_key}/acknowledge", dependencies=writing)
def acknowledge(study_key: str, body: Acknowledgement, user: GetUserDep, stores: OpenedStores) -> dict:
    return worklist.acknowledge(stores, study_key, actor=user.get_name(), **body.model_dump())


@app.post("/api/items/{study_key}/report", dependencies=writing)
def report(study_key: str, body: FinalRead, user: GetUserDep, stores: OpenedStores) -> dict:
    return worklist.report(stores, study_key, actor=user.get_name(), **body.model_dump())


@app.post("/api/items/{study_key}/{action}", dependencies=writing)  # after those that take more than the version
def act(
    study_key: str,
    action: Literal["start_reading", "take_over", "close", "reopen", "release"],
    body: Seen,
    user: GetUserDep,
    stores: OpenedStores,
) -> dict:
    return worklist.act(stores, study_key, action, actor=user.get_name(), row_version=body.row_version)


@app.get("/models/{version}/{document}")
def model_document(version: int, document: str, stores: OpenedStores) -> Response:
    """A version's model card, or one of its plots: `model_card.html`, `loss_plot.png`, `accuracy_plot.png`, ..."""
    content, media_type = model_card.read_document(stores, version, document)
    return Response(content, media_type=media_type, headers={"Content-Security-Policy": DOCUMENT_POLICY})


@app.get("/reports/{study_key}.html")
def study_report(study_key: str, user: GetUserDep, stores: OpenedStores) -> Response:
    with pictures.rendering:
        html = ai_report(stores, load_settings(), study_key, made_for=user.get_name())
    return Response(html, media_type="text/html", headers={"Content-Security-Policy": DOCUMENT_POLICY})


@app.get("/images/{radiograph_id}.png")
def image(radiograph_id: int, stores: OpenedStores) -> Response:
    picture = pictures.get(("image", radiograph_id), lambda: worklist.image_png(stores, load_settings(), radiograph_id))
    return Response(picture, media_type="image/png")


@app.get("/overlays/{version}/{radiograph_id}.png")
def overlay(version: int, radiograph_id: int, stores: OpenedStores) -> Response:
    picture = pictures.get(
        ("overlay", version, radiograph_id), lambda: worklist.overlay_png(stores, version, radiograph_id)
    )
    return Response(picture, media_type="image/png")


@app.get("/highlighted/{version}/{radiograph_id}.png")
def highlighted(version: int, radiograph_id: int, stores: OpenedStores) -> Response:
    picture = worklist.highlighted_png(stores, version, radiograph_id)
    name = f"radiograph-{radiograph_id}-model-{version}-ai-attention.png"
    return Response(picture, media_type="image/png", headers={"Content-Disposition": f'attachment; filename="{name}"'})

"""Drawn studies with a champion's outcomes, and a way to ask the running page."""

import hashlib
import io
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fracture_ml.core.recipe import SplitPlan, TrainRecipe
from fracture_ml.core.records import (
    BodyPart,
    Box,
    LabelClaim,
    LabelSource,
    LabelValue,
    MediaType,
    OperatingPoints,
    Priority,
    RadiographFacts,
    ReceivedObject,
)
from fracture_ml.data.splits import draft_snapshot
from fracture_ml.scoring.heat_map import overlay_png
from fracture_ml.steps.pictures import write_pictures
from fracture_ml.steps.settings import Settings
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores import Stores
from fracture_ml.stores.predictions import PredictionRow
from fracture_ml.stores.radiographs import Arrival

POINTS = OperatingPoints(t_sensitivity=0.35, t_specificity=0.70, target_sensitivity=0.95, target_specificity=0.95)


def png_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def draw_bone(seed: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """uint8, (H, W): a bright shaft on dark ground, different for each seed."""
    picture = Image.new("L", size, 12)
    draw = ImageDraw.Draw(picture)
    left = 60 + 7 * (seed % 12)
    draw.rectangle((left, 0, left + 60, size[1]), fill=90)
    draw.rectangle((left + 8, 0, left + 52, size[1]), fill=190)
    noise = np.random.default_rng(seed).integers(-8, 8, (size[1], size[0]))
    return np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A study to put into the stores: an image per score; None where the champion could not score it."""

    name: str
    scores: tuple[float | None, ...] = (0.1,)
    ordered: Priority = Priority.ROUTINE
    body_part: BodyPart = BodyPart.WRIST
    pictures: tuple[bytes, ...] = ()  # drawn where empty

    @property
    def study_key(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()[:32]


def receive(stores: Stores, study: Drawn, *, first: int = 0) -> list[int]:
    """Put the images `first` and later of a study into the bucket and the tables. Returns: their radiograph ids."""
    arrivals = []
    for place in range(first, len(study.scores)):
        seed = int(study.study_key[:8], 16) + place
        data = study.pictures[place] if study.pictures else png_of(draw_bone(seed))
        sha256 = hashlib.sha256(data).hexdigest()
        with Image.open(io.BytesIO(data)) as picture:
            width_px, height_px = picture.size
            media_type = MediaType(Image.MIME[picture.format])
        stores.bucket.write(f"radiographs/{sha256}", data, media_type)
        facts = RadiographFacts(
            sha256=sha256,
            media_type=media_type,
            size_bytes=len(data),
            width_px=width_px,
            height_px=height_px,
            bits_stored=8,
            photometric="MONOCHROME2",
            perceptual_hash=int(sha256[:16], 16),
            patient_key=f"patient-key-of-{study.name}",
            study_key=study.study_key,
            body_part=study.body_part,
            view=("frontal", "lateral", "oblique")[place % 3],
            laterality="L",
            ordered_priority=study.ordered,
        )
        received = ReceivedObject(key=f"inbox/Jane Doe/{study.name}-{place}.png", etag=sha256, size_bytes=len(data))
        label = LabelClaim(
            subject_kind="sha256",
            subject=sha256,
            value=LabelValue.NEGATIVE,
            source=LabelSource.DATASET,
        )
        stored = {"object_key": f"radiographs/{sha256}", "stored_sha256": sha256}
        arrivals.append(Arrival(received=received, facts=facts, **stored, claims=(label,)))
    stores.radiographs.record_radiographs(arrivals, near_duplicate_bits=0)
    hashes = {arrival.facts.sha256: place for place, arrival in enumerate(arrivals)}
    known = [one for one in stores.radiographs.candidates(as_of=datetime.now(UTC)) if one.sha256 in hashes]
    return [one.radiograph_id for one in sorted(known, key=lambda one: hashes[one.sha256])]


def promote_champion(
    stores: Stores, *, seed: int = 0, metrics: dict[str, Any] | None = None, points: OperatingPoints = POINTS
) -> int:
    """Register a version on what has labels, and promote it. Returns: its number."""
    now, plan, recipe = datetime.now(UTC), SplitPlan(seed=seed), TrainRecipe(seed=seed)
    snapshot = draft_snapshot(stores.radiographs.candidates(as_of=now), plan)
    stores.snapshots.save(snapshot, plan, as_of=now)
    stores.bucket.write("bundles/model_card.html", b"<p>a card</p>", "text/html")
    registered = stores.registry.register(
        snapshot_id=snapshot.id,
        recipe_id=recipe.id,
        recipe=recipe.to_json(),
        study_name=None,
        bundle_key="bundles/drawn",
        bundle_sha256="0" * 64,
        metrics=metrics or {},
        operating_points=points,
        code_version=f"test-{seed}",
        scores=(),
        actor="tests",
    )
    stores.registry.promote(registered.version, actor="tests", reason="drawn")
    return registered.version


def predict(stores: Stores, version: int, ids: Sequence[int], scores: Sequence[float | None]) -> None:
    """One outcome per radiograph, with a heat map where the score reaches the lower operating point."""
    rows, heat_maps, overlays = [], {}, {}
    commit = f"attention/{version}/{ids[0]}"
    heat_map_key, overlay_key = f"{commit}-heat_maps.zip", f"{commit}-overlays.zip"
    for radiograph_id, score in zip(ids, scores, strict=True):
        if score is None:
            rows.append(PredictionRow(radiograph_id=radiograph_id, reason="corrupt: the decoder refuses the bytes"))
            continue
        flagged = score >= POINTS.t_sensitivity
        if flagged:
            across, down = np.meshgrid(np.linspace(-1, 1, 240), np.linspace(-1, 1, 320))
            attention = np.exp(-((across**2 + (down - 0.2) ** 2) / 0.05))
            heat_maps[radiograph_id] = png_of((attention * 255).astype(np.uint8))
            overlays[radiograph_id] = overlay_png((attention * 120).astype(np.uint8), attention)
        rows.append(
            PredictionRow(
                radiograph_id=radiograph_id,
                probability=score / 2,  # before the calibration: nobody is shown it
                calibrated=score,
                operating_point=POINTS.place(score),
                heat_map_key=heat_map_key if flagged else None,
                overlay_key=overlay_key if flagged else None,
                box=Box(x=90, y=150, width=60, height=70) if flagged else None,
            )
        )
    write_pictures(stores.bucket, heat_map_key, heat_maps)
    write_pictures(stores.bucket, overlay_key, overlays)
    stores.predictions.save(version, rows)


def put_on_list(stores: Stores, settings: Settings, study: Drawn) -> list[int]:
    """Received, scored by the champion, ranked. Returns: its radiograph ids."""
    ids = receive(stores, study)
    champion = stores.registry.find_champion()
    predict(stores, champion.version if champion else promote_champion(stores), ids, study.scores)
    rank_worklist(stores, settings)
    return ids


@dataclass(frozen=True, kw_only=True)
class Access:
    """Airflow's app, running: where it is, and a token per role."""

    url: str  # of the worklist page, with the slash
    tokens: dict[str, str]
    routes: list[tuple[str, str]]  # method, path below the page
    heavy_modules: list[str]
    stores: Stores
    settings: Settings

    def ask(
        self,
        method: str,
        path: str,
        *,
        role: str | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer. A body is sent as the page sends it, unless `headers` say else."""
        if headers is None:
            headers = {"Content-Type": "application/json", "X-Fracture-Worklist": "1"} if body is not None else {}
        if role:
            headers = {**headers, "Cookie": f"_token={self.tokens[role]}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

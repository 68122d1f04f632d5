"""Where a study stands on the worklist. Pure: no clock, no store."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from fracture_ml.core.records import AiPriority, BodyPart, Priority, RankedStudy, StudyToRank

_ORDER = (Priority.STAT, Priority.URGENT, Priority.ROUTINE)
MINUTES_TO_READ = {Priority.STAT: 15, Priority.URGENT: 60, Priority.ROUTINE: 24 * 60}
REGION_WEIGHTS = frozenset({BodyPart.HIP, BodyPart.PELVIS, BodyPart.SPINE})


def rank_study(
    study: StudyToRank,
    *,
    version: int | None,
    region_weights: Collection[BodyPart] = REGION_WEIGHTS,
    minutes_to_read: Mapping[Priority, int] = MINUTES_TO_READ,
    prioritisation: bool = True,
) -> RankedStudy:
    """A study's row: its score is the highest of its images, and its due time follows its effective priority.

    A region weight raises a study by one step where the AI says urgent or suspicious, and only there. The weight says
    that a fracture in this region costs more when it is read late; without a sign of one, every pelvis and spine would
    move up alike, which reorders nothing among them and pushes the flagged hands down. Where the AI could not
    look, the study keeps its ordered priority as well: "unavailable" is no finding.

    Images without a score are counted in `images_unscored`, and change nothing else: the highest of the others
    stands. With prioritisation off, score and AI priority stay to be seen, and the ordered priority alone decides.

    Args:    version: the champion; None: there is none, and the AI is unavailable.
             minutes_to_read: from arrival, by priority. region_weights: a setting that a clinician owns.
    """
    scores = study.scores if version is not None else ()
    if scores:
        radiograph_id, score, operating_point = max(scores, key=lambda image: (image[1], -image[0]))
        ai = AiPriority(operating_point)
    else:
        radiograph_id, score, ai = study.first_radiograph_id, None, AiPriority.UNAVAILABLE
    flagged = ai in (AiPriority.URGENT, AiPriority.SUSPICIOUS)
    raised = prioritisation and flagged and study.body_part in region_weights
    effective = effective_priority(study.ordered_priority, ai, raised=raised, prioritised=prioritisation)
    return RankedStudy(
        study_key=study.study_key,
        ordered_priority=study.ordered_priority,
        ai_priority=ai,
        score=score,
        radiograph_id=radiograph_id,
        version=version,
        body_part=study.body_part,
        images=study.images,
        images_unscored=study.unscored if version is not None else study.images,
        raised=raised,
        arrived_at=study.arrived_at,
        due_at=study.arrived_at + timedelta(minutes=minutes_to_read[effective]),
        prioritised=prioritisation,
    )


def effective_priority(ordered: Priority, ai: AiPriority, *, raised: bool, prioritised: bool = True) -> Priority:
    """The ordered priority, or the AI's where that is higher: never lower than what was ordered.

    Urgent counts as URGENT, all else as ROUTINE; `raised` is one step more. The view `worklist_open` says the same.
    """
    if not prioritised:
        return ordered
    by_ai = (1 if ai == AiPriority.URGENT else 2) - raised
    return _ORDER[min(_ORDER.index(ordered), by_ai)]

"""Where a study stands on the worklist. Pure: no clock, no store."""

from dataclasses import asdict, dataclass
from datetime import timedelta

from fracture_ml.core.recipe import hash_of_json
from fracture_ml.core.records import AiPriority, BodyPart, Priority, RankedStudy, StudyToRank


@dataclass(frozen=True, kw_only=True)
class RankingRules:
    """What a place decides about the worklist: settings that a clinician owns."""

    prioritisation: bool = True  # False: the ordered priority alone decides
    region_weights: frozenset[BodyPart] = frozenset({BodyPart.HIP, BodyPart.PELVIS, BodyPart.SPINE})
    minutes_stat: int = 15  # from arrival to the read
    minutes_urgent: int = 60
    minutes_routine: int = 24 * 60

    @property
    def id(self) -> str:
        """sha256 of the rules, 64 hex characters."""
        return hash_of_json(asdict(self) | {"region_weights": sorted(self.region_weights)})

    def time_to_read(self, priority: Priority) -> timedelta:
        minutes = {
            Priority.STAT: self.minutes_stat,
            Priority.URGENT: self.minutes_urgent,
            Priority.ROUTINE: self.minutes_routine,
        }
        return timedelta(minutes=minutes[priority])


def rank_study(study: StudyToRank, *, rules: RankingRules) -> RankedStudy:
    """A study's row: its score is the highest of its images, and its due time follows its effective priority.

    A region weight raises a study by one step where the AI says urgent or suspicious, and only there; of a study with
    several body parts one of the regions is enough, since a further view must not push it down. The weight says
    that a fracture in this region costs more when it is read late; without a sign of one, every pelvis and spine would
    move up alike, which reorders nothing among them and pushes the flagged hands down. Where the AI could not
    look, the study keeps its ordered priority as well: "unavailable" is no finding.

    Images without a score are counted in `images_unscored`, and change nothing else: the highest of the others
    stands. With prioritisation off, score and AI priority stay to be seen, and the ordered priority alone decides.
    """
    if study.scores:
        radiograph_id, score, operating_point = max(study.scores, key=lambda image: (image[1], -image[0]))
        ai = AiPriority(operating_point)
    else:
        radiograph_id, score, ai = study.first_radiograph_id, None, AiPriority.UNAVAILABLE
    flagged = ai in (AiPriority.URGENT, AiPriority.SUSPICIOUS)
    raised = rules.prioritisation and flagged and not rules.region_weights.isdisjoint(study.body_parts)
    effective = effective_priority(study.ordered_priority, ai, raised=raised, prioritised=rules.prioritisation)
    return RankedStudy(
        study_key=study.study_key,
        ordered_priority=study.ordered_priority,
        ai_priority=ai,
        score=score,
        radiograph_id=radiograph_id,
        version=study.version,
        body_part=study.body_part,
        body_parts=study.body_parts,
        images=study.images,
        images_unscored=study.unscored,
        raised=raised,
        arrived_at=study.arrived_at,
        due_at=study.arrived_at + rules.time_to_read(effective),
        prioritised=rules.prioritisation,
        ranked_by=rules.id,
    )


def effective_priority(
    ordered: Priority, ai: AiPriority, *, raised: bool, prioritised: bool = True, overdue: bool = False
) -> Priority:
    """The ordered priority, or the AI's where that is higher: never lower than what was ordered.

    The AI's urgent counts as URGENT, all else as ROUTINE; `raised` is one step more. Past its due time a study rises
    one step, whatever it rose by before. The view `worklist_open` says the same.
    """
    rungs = list(Priority)  # STAT first
    rung = rungs.index(ordered)
    if prioritised:
        rung = min(rung, (1 if ai == AiPriority.URGENT else 2) - raised)
    return rungs[max(0, rung - overdue)]

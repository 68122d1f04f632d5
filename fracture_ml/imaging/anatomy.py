"""What hospitals call body parts, views and sides, mapped to our own words."""

import re

from fracture_ml.core.records import BodyPart

# The longest name that a text holds decides; so "upper arm" is not an arm of its own, nor "lumbar spine" anything else.
# DICOM's defined terms (PS3.16, Annex L) are written without blanks.
_NAMES = {
    BodyPart.HAND: "HAND FINGER THUMB METACARPUS METACARPAL PHALANX",
    BodyPart.WRIST: "WRIST SCAPHOID CARPUS CARPAL NAVICULAR",
    BodyPart.FOREARM: "FOREARM LOWERARM LOWARM RADIUS ULNA RADIUSULNA",
    BodyPart.ELBOW: "ELBOW OLECRANON",
    BodyPart.HUMERUS: "HUMERUS UPPERARM UPRARM ARM",
    BodyPart.SHOULDER: "SHOULDER CLAVICLE SCAPULA ACJOINT ACROMIOCLAVICULAR",
    BodyPart.HIP: "HIP ACETABULUM",
    BodyPart.PELVIS: "PELVIS SIJOINT SACROILIAC",
    BodyPart.FEMUR: "FEMUR THIGH UPPERLEG UPRLEG",
    BodyPart.KNEE: "KNEE PATELLA",
    BodyPart.LEG: "LEG LOWERLEG LOWLEG TIBIA FIBULA TIBIAFIBULA TIBFIB CALF",
    BodyPart.ANKLE: "ANKLE MALLEOLUS",
    BodyPart.FOOT: "FOOT TOE HALLUX CALCANEUS HEEL METATARSUS METATARSAL TARSUS",
    BodyPart.SPINE: "SPINE CSPINE TSPINE LSPINE SSPINE CTSPINE TLSPINE LSSPINE CERVICALSPINE THORACICSPINE LUMBARSPINE "
    "LUMBOSACRALSPINE WHOLESPINE SACRUM COCCYX VERTEBRA",
    BodyPart.CHEST: "CHEST THORAX RIB RIBS STERNUM LUNG",
}
_BODY_PART_OF = {name: part for part, names in _NAMES.items() for name in names.split()}
# Says something, though not which part: kept in a stored file, and no body part of ours.
_VAGUE = {"EXTREMITY", "UPPEREXTREMITY", "LOWEREXTREMITY", "SKELETON", "BONE", "JOINT"}

_VIEW_OF = {
    "frontal": "AP PA FRONTAL ANTEROPOSTERIOR POSTEROANTERIOR DP PD DORSOPALMAR DORSOPLANTAR",
    "lateral": "LL RL LAT LATERAL LLAT RLAT LATERALLEFT LATERALRIGHT",
    "oblique": "RLO LLO RAO LAO RPO LPO OBL OBLIQUE",
    "axial": "AX AXIAL SUNRISE SKYLINE TANGENTIAL",
}
_VIEW_BY_NAME = {name: view for view, names in _VIEW_OF.items() for name in names.split()}


def body_part_of(text: str | None) -> BodyPart:
    """Free text in practice: `LOWER LEG`, `T-SPINE`, `Hand, left`. UNKNOWN where it names no part, or several."""
    names = _names_in(text)
    found = {_BODY_PART_OF[name] for name in names if name in _BODY_PART_OF}
    return found.pop() if len(found) == 1 else BodyPart.UNKNOWN


def body_part_words(text: str | None) -> str | None:
    """The words of `text` that name anatomy, at most 16 characters, and nothing else that somebody typed there."""
    names = [name for name in _names_in(text) if name in _BODY_PART_OF or name in _VAGUE]
    return names[0][:16] if names else None


def view_of(text: str | None) -> str | None:
    """frontal, lateral, oblique or axial; None for anything else."""
    return _VIEW_BY_NAME.get(_letters_of(text))


def view_word(text: str | None) -> str | None:
    """The letters of `text` where they name a view, and nothing else that somebody typed there."""
    letters = _letters_of(text)
    return letters if letters in _VIEW_BY_NAME else None


def laterality_of(text: str | None) -> str | None:
    """L, R or B (both); None for anything else."""
    letter = (text or "").strip().upper()
    return letter if letter in ("L", "R", "B") else None


def _letters_of(text: str | None) -> str:
    return re.sub(r"[^A-Z]", "", (text or "").upper())


def _names_in(text: str | None) -> list[str]:
    """The known names in `text`: all of it as one, else pairs of neighbouring words, else single words."""
    words = re.findall(r"[A-Z]+", (text or "").upper())
    words = [word.removesuffix("S") if word.removesuffix("S") in _BODY_PART_OF else word for word in words]
    whole = "".join(words)
    if whole in _BODY_PART_OF or whole in _VAGUE:
        return [whole]
    names, place = [], 0
    while place < len(words):
        pair = "".join(words[place : place + 2])
        if len(words) > place + 1 and (pair in _BODY_PART_OF or pair in _VAGUE):
            names.append(pair)
            place += 2
            continue
        if words[place] in _BODY_PART_OF or words[place] in _VAGUE:
            names.append(words[place])
        place += 1
    return names

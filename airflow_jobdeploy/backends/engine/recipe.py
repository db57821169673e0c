"""What the image of a job is made of, and the names that follow from it. Pure: no request is made here.

    an image of a registry, or a Dockerfile of the job's code  ->  with Debian packages  ->  with Python packages

Each derived image is named by all that it is made of, the image before it by its id: what is the same is made once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.hostside import layout

#: Where the Python packages of a job lie in its image.
ENVIRONMENT = "/opt/jobdeploy/env"
#: How long a stage may take where no setup_timeout bounds it, in seconds.
LIMIT_S = 2 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One derived image: `kind` (dockerfile, apt, pip) and what goes into it."""

    kind: str
    content: Mapping[str, Any]

    def name(self, before: str) -> str:
        """Its name, made from the image of the id `before`."""
        text = json.dumps([self.kind, before, self.content], sort_keys=True)
        return f"{names.BUILT_IMAGE}:{layout.letters(text.encode('utf-8', 'surrogateescape'), 32)}"

    @property
    def about(self) -> str:
        """For people."""
        if self.kind == "dockerfile":
            return f"the image of {self.content['path']}"
        what = self.content["packages"] if self.kind == "apt" else self.content["requirements"]
        shown = ", ".join(what[:4]) + (f" and {len(what) - 4} more" if len(what) > 4 else "")
        return f"the image with {shown}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The image of one attempt."""

    #: In a registry, or on the engine; "" where a Dockerfile makes it.
    image: str = ""
    pull: str = "missing"
    stages: Sequence[Stage] = ()
    #: The tree that holds the Dockerfile.
    context: str = ""
    #: What installers run with, beside secrets.
    env: Mapping[str, str] = field(default_factory=dict)
    limit_s: float | None = None

    @property
    def is_plain(self) -> bool:
        return not self.stages


def recipe_of(plan: Mapping[str, Any], image: str) -> Recipe:
    """Of a plan as its record has it. `image`: where the plan names none."""
    wanted = plan.get("container") or {}
    dockerfile, context = str(wanted.get("dockerfile") or ""), str(wanted.get("context") or "")
    stages = []
    if dockerfile:
        stages.append(Stage(kind="dockerfile", content={"path": dockerfile, "tree": context}))
    if wanted.get("apt_packages"):
        stages.append(Stage(kind="apt", content={"packages": sorted(set(wanted["apt_packages"]))}))
    if plan.get("environment"):
        stages.append(Stage(kind="pip", content=dict(plan["environment"])))
    return Recipe(
        image="" if dockerfile else str(wanted.get("image") or image),
        pull=str(wanted.get("pull") or "missing"),
        stages=tuple(stages),
        context=context,
        env=dict(plan.get("env") or {}),
        limit_s=(plan.get("limits") or {}).get("setup_timeout_s"),
    )

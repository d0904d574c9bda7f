"""What every section of params.yaml shares: strict types, no unknown key, read-only after
loading."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One top-level block of params.yaml. `1` is a float where one is meant; `"1"`, `yes` and `nan`
    are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

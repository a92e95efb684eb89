from __future__ import annotations

import pandas as pd

from vbatch_jupyter.frames.accessor import register


def test_a_frame_submits_runs_and_previews_itself_and_a_reload_neither_warns_nor_keeps_the_old_functions():
    df = pd.DataFrame({"a": [1]})
    register(submit=lambda *arguments, **options: ("old", arguments, options), run=print, dry_run=print)
    assert df.vbatch.submit("t", schema=1)[0] == "old"
    register(
        submit=lambda frame, template, **options: ("submit", frame is df, template, options),
        run=lambda frame, template, **options: ("run", frame is df, template, options),
        dry_run=lambda frame, template, **options: ("dry_run", frame is df, template, options),
    )
    assert df.vbatch.submit("t", schema=1) == ("submit", True, "t", {"schema": 1})
    assert df.vbatch.run("t", n=2) == ("run", True, "t", {"n": 2})
    assert df.vbatch.dry_run("t", n=2) == ("dry_run", True, "t", {"n": 2})

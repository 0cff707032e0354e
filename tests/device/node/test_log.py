import re

from medkd.device.node.log import log


def test_a_line_has_the_time_of_day_and_steers_nothing(capsys):
    log("received [red]\x1b[2J")
    said = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d received \[red\]\\x1b\[2J\n", said)

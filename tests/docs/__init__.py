"""Pages of documentation as the tests read them: quoted code, code that runs, links, math, translations."""

# From notebooks to the book: execute the chapters one after the other, then render them.
#   snakemake --workflow-profile profiles/local --config profile=mini    (what `make book` does)
#
# The chapters and their order are those of book/_toc.yml. A chapter is executed again, and those
# after it, when its notebook, its parameters, the package or a shipped artefact has changed in
# content.

from pathlib import Path

import yaml

PROFILE = config.get("profile", "mini")
RUN = f"runs/{PROFILE}"
PROFILES = sorted(folder.name for folder in Path("params").iterdir() if folder.is_dir())
if PROFILE not in PROFILES:
    raise WorkflowError(f"profile={PROFILE}: choose one of {', '.join(PROFILES)}")


def toc_entries(node):
    """Yields the pages of a table of contents in reading order."""
    if isinstance(node, list):
        for item in node:
            yield from toc_entries(item)
    elif isinstance(node, dict):
        yield from (node[key] for key in ("root", "file") if key in node)
        for key in ("parts", "chapters", "sections"):
            yield from toc_entries(node.get(key))


def files(*patterns):
    return sorted(str(f) for p in patterns for f in Path().glob(p) if f.is_file())


TOC = yaml.safe_load(Path("book/_toc.yml").read_text())
CHAPTERS = [page for page in toc_entries(TOC) if Path(f"book/{page}.ipynb").is_file()]
for chapter in CHAPTERS:
    if not Path(f"params/{PROFILE}/{chapter}.yml").is_file():
        raise WorkflowError(f"params/{PROFILE}/{chapter}.yml is missing: {chapter} needs it")
SHARED = files("rlfseg/**/*.py", f"artefacts/{PROFILE}/**/*")
PROSE = [f for f in files("book/**/*") if not f.endswith(".ipynb") and "/." not in f]


localrules:
    book,
    site,


rule book:
    input:
        f"{RUN}/site/.complete",


for index, chapter in enumerate(CHAPTERS):

    rule:
        name:
            f"chapter_{chapter}"
        input:
            SHARED,
            notebook=f"book/{chapter}.ipynb",
            parameters=f"params/{PROFILE}/{chapter}.yml",
            previous=[f"{RUN}/book/{name}.ipynb" for name in CHAPTERS[max(0, index - 1) : index]],
        output:
            f"{RUN}/book/{chapter}.ipynb",
        params:
            title=f"chapter {chapter} (profile {PROFILE})",
            unfinished=f"{RUN}/unfinished/{chapter}.ipynb",
        threads: workflow.cores
        shell:
            """
            echo "== {params.title}"
            mkdir -p $(dirname {params.unfinished})
            failed() {{
                echo "== FAILED: {params.title}; see {params.unfinished}" >&2
                exit 1
            }}
            papermill {input.notebook} {params.unfinished} -f {input.parameters} \
                --log-level WARNING || failed
            python -c 'import sys, nbformat; sys.exit(bool(nbformat.read(sys.argv[1], 4)
                .metadata.papermill.exception))' {params.unfinished} || failed
            mv {params.unfinished} {output}
            """


# The new site is built beside the old one and takes its place only when it is whole.
rule site:
    input:
        PROSE,
        chapters=[f"{RUN}/book/{chapter}.ipynb" for chapter in CHAPTERS],
        config="_config.yml",
    output:
        f"{RUN}/site/.complete",
    params:
        prose=PROSE,
        run=RUN,
    shell:
        """
        echo "== rendering the book"
        rm -rf {params.run}/site.tmp
        for page in {params.prose}; do
            mkdir -p "$(dirname "{params.run}/$page")"
            cp "$page" "{params.run}/$page"
        done
        rm -rf {params.run}/book/results
        cp -r {params.run}/results {params.run}/book/results
        if ! jb build {params.run}/book --config {input.config} --path-output {params.run}/site.tmp \
            --all -W -n --keep-going > {params.run}/site.log 2>&1
        then
            cat {params.run}/site.log
            echo "== rendering FAILED" >&2
            exit 1
        fi
        touch {params.run}/site.tmp/_build/html/.complete
        rm -rf {params.run}/site.old
        mv {params.run}/site {params.run}/site.old
        mv {params.run}/site.tmp/_build/html {params.run}/site
        rm -rf {params.run}/site.old {params.run}/site.tmp
        """

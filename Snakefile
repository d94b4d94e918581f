# From notebooks to the book: execute the chapters, each after those that it needs; then render them.
#   snakemake --workflow-profile profiles/local --config profile=mini    (what `make book` does)
#
# The chapters are those of rlfseg.chapters, which says what each needs. A chapter is executed again,
# and those that need it, when its notebook, its parameters, what the run is, the package or a shipped
# artefact has changed in content.

import re
from pathlib import Path

import yaml

from rlfseg.book.kernels import begin
from rlfseg.chapters import CHAPTERS
from rlfseg.stage import kept

PROFILE = config.get("profile", "mini")
REPOSITORY = (config.get("repository") or "").strip("/")
RUN = str(kept(PROFILE).relative_to(Path.cwd().resolve()))
MINIMAL = RUN != f"runs/{PROFILE}"
PROFILES = sorted(folder.name for folder in Path("params").iterdir() if folder.is_dir())
if PROFILE not in PROFILES:
    raise WorkflowError(f"profile={PROFILE}: choose one of {', '.join(PROFILES)}")
if REPOSITORY and not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", REPOSITORY):
    raise WorkflowError(f"repository={REPOSITORY}: give it as https://HOST/OWNER/NAME")


def files(*patterns):
    return sorted(str(f) for p in patterns for f in Path().glob(p) if f.is_file())


for chapter in CHAPTERS:
    if not Path(f"params/{PROFILE}/{chapter}.yml").is_file():
        raise WorkflowError(f"params/{PROFILE}/{chapter}.yml is missing: {chapter} needs it")

#: Small models don't fill a machine: much of a chapter's time is Python's, so two run at once; of
#: two that want the same run, one waits for the other (rlfseg.stage). Large models take turns.
AT_ONCE = 2 if PROFILE in ("smoke", "mini") else 1

# Small models are quicker than the imports of a kernel: it is forked from a process that has done them.
onstart:
    if AT_ONCE > 1:
        begin()


#: Where what 03 trains ships, the chapters that read it need not wait for its page.
SHIPS = Path(f"artefacts/{PROFILE}").is_dir()


def needed(name):
    """The chapters before which one can't be executed."""
    chapter = CHAPTERS[name]
    if chapter.alone and AT_ONCE > 1:
        return [other for other in CHAPTERS if other != name and (CHAPTERS[other].tables or not MINIMAL)]
    if SHIPS and chapter.needs == ("03_train",):
        return CHAPTERS["03_train"].needs
    return chapter.needs


def in_time(minutes):
    """What asks a chapter to end before its job's time is over; nothing where that has no limit.

    Slurm's own signal doesn't reach a kernel where it tracks processes by cgroups. Only the first
    process of the job is asked, by `timeout`, and hands it on.
    """
    if not minutes:
        return ""
    seconds = 60 * int(minutes)
    return f"timeout --foreground --preserve-status {seconds - min(300, seconds // 10)}"


def to_the_end(name):
    """Minutes from a chapter's beginning until those that wait for it are done: longest goes first."""
    waiting = [other for other in CHAPTERS if name in needed(other) and not CHAPTERS[other].alone]
    return CHAPTERS[name].minutes + max(map(to_the_end, waiting), default=0)


SHARED = files(
    "rlfseg/**/*.py",
    "rlfseg/**/*.mjs",
    "rlfseg/**/*.yml",
    f"artefacts/{PROFILE}/**/*",
    f"params/{PROFILE}/run.yml",
)
PROSE = [f for f in files("book/**/*") if not f.endswith(".ipynb") and "/." not in f]


def book_config(repository, numbers):
    """Jupyter Book's configuration, with the numbers that prose pages take from the chapters; what
    needs a public address only where there is one.
    """
    given = yaml.safe_load(Path("_config.yml").read_text())
    given["parse"]["myst_substitutions"] = numbers
    if repository:
        owner, name = repository.split("/")[-2:]
        given["repository"] = {"url": repository, "branch": "main", "path_to_book": "book"}
        given["launch_buttons"] = {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        }
        given["html"]["use_repository_button"] = True
        address = f"https://{owner}.github.io/{name}/"
        given["html"]["baseurl"] = given["sphinx"]["config"]["ogp_site_url"] = address
    return yaml.safe_dump(given, allow_unicode=True)


localrules:
    book,
    config,
    parameters,
    pdf,
    site,


# The chapters are asked for too: one that failed is gone, and a page made before would not miss it.
rule book:
    input:
        f"{RUN}/site/.complete",
        [f"{RUN}/book/{chapter}.ipynb" for chapter in CHAPTERS],


# A pass of MINIMAL=1 has parameters of its own, made of the profile's.
rule parameters:
    input:
        f"params/{PROFILE}/{{chapter}}.yml",
        f"params/{PROFILE}/run.yml",
    output:
        f"{RUN}/params/{{chapter}}.yml",
    run:
        from rlfseg.chapters.minimal import minimal
        from rlfseg.config import read_yaml

        given = minimal(wildcards.chapter, read_yaml(Path(input[0])))
        Path(output[0]).write_text(yaml.safe_dump(given, sort_keys=False, allow_unicode=True))


for chapter in CHAPTERS:

    rule:
        name:
            f"chapter_{chapter}"
        input:
            SHARED,
            notebook=f"book/{chapter}.ipynb",
            parameters=f"{RUN}/params/{chapter}.yml" if MINIMAL else f"params/{PROFILE}/{chapter}.yml",
            needed=[f"{RUN}/book/{name}.ipynb" for name in needed(chapter)],
        output:
            f"{RUN}/book/{chapter}.ipynb",
        params:
            title=f"chapter {chapter} (profile {PROFILE})",
            unfinished=f"{RUN}/unfinished/{chapter}.ipynb",
            mistaken=f"{RUN}/unfinished/{chapter}.mistaken",
            turn=f"flock --no-fork runs/{PROFILE}/.turn" if AT_ONCE == 1 else "",
            limit=lambda wildcards, resources: in_time(resources.get("runtime")),
        resources:
            attempt=lambda wildcards, attempt: attempt,
        threads: workflow.cores if CHAPTERS[chapter].alone else max(1, workflow.cores // AT_ONCE)
        priority: round(10 * to_the_end(chapter))
        shell:
            """
            echo "== {params.title}"
            mkdir -p $(dirname {params.unfinished})
            failed() {{  # another attempt is for what a signal stopped, the end of a job's time, a device
                test $1 = 75 -o $1 = 137 -o $1 = 143 || touch {params.mistaken}
                echo "== FAILED: {params.title}; see {params.unfinished}" >&2
                exit 1
            }}
            test {resources.attempt} != 1 || rm -f {params.mistaken}
            test ! -e {params.mistaken} || failed 1
            {params.limit} {params.turn} python -m rlfseg.book.execute {input.notebook} {params.unfinished} \
                {input.parameters} || failed $?
            mv {params.unfinished} {output}
            """


rule config:
    input:
        given="_config.yml",
        chapters=[f"{RUN}/book/{chapter}.ipynb" for chapter in CHAPTERS],
    output:
        f"{RUN}/config.yml",
    params:
        repository=REPOSITORY,
    run:
        from rlfseg.book.executed import told

        Path(output[0]).write_text(book_config(params.repository, told(map(Path, input.chapters))))


# The new site is built beside the old one and takes its place only when it is whole.
rule site:
    input:
        PROSE,
        chapters=[f"{RUN}/book/{chapter}.ipynb" for chapter in CHAPTERS],
        config=f"{RUN}/config.yml",
    output:
        f"{RUN}/site/.complete",
    params:
        prose=PROSE,
        run=RUN,
        npm="runs/npm/onnxruntime-web",
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
        rm -rf {params.run}/book/_static/browser
        if [ -d {params.run}/browser ]; then  # a model for the reader's browser, if npm has what runs it
            python -m rlfseg.book.browser.runtime {params.npm} &&
                cp -r {params.run}/browser {params.run}/book/_static/ &&
                cp -r {params.npm} {params.run}/book/_static/browser/ort ||
                echo "== without the model in the reader's browser"
        fi
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


# One long page, printed; how it looks on paper is in book/_static/print.css. The site links to it.
rule pdf:
    input:
        PROSE,
        f"{RUN}/site/.complete",
        chapters=[f"{RUN}/book/{chapter}.ipynb" for chapter in CHAPTERS],
        config=f"{RUN}/config.yml",
    output:
        f"{RUN}/book.pdf",
    params:
        run=RUN,
        page=(Path.cwd() / RUN / "print.tmp/_build/singlehtml/index.html").as_uri(),
    shell:
        """
        echo "== printing the book"
        browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {{
            echo "== no Chromium or Chrome on PATH: install one" >&2
            exit 1
        }}
        rm -rf {params.run}/print.tmp
        jb build {params.run}/book --config {input.config} --path-output {params.run}/print.tmp \
            --builder singlehtml --all -W -n --keep-going > {params.run}/print.log 2>&1 \
            || {{ cat {params.run}/print.log; exit 1; }}
        $browser --headless --no-sandbox --disable-gpu --no-pdf-header-footer \
            --virtual-time-budget=60000 --print-to-pdf={output} \
            "{params.page}" >> {params.run}/print.log 2>&1 || {{ cat {params.run}/print.log; exit 1; }}
        rm -rf {params.run}/print.tmp
        cp {output} {params.run}/site/
        sed 's|<span class="pdf">\\([^<]*\\)</span>|<a href="book.pdf">\\1</a>|' {params.run}/site/cite.html \
            > {params.run}/cite.tmp && mv {params.run}/cite.tmp {params.run}/site/cite.html
        """

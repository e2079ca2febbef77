"""A small world of videos, a server of it, and a browser to look at it with."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra serve: pip install 'relsdk[serve]'")

from relsdk import Document, Embedder, Index
from tests.serve.servers import running

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"&amp;'

TITLES = [
    "红烧肉的家常做法，肥而不腻",
    "红烧肉怎么做才不腻，三步搞定",
    "红烧排骨怎么做好吃",
    "红烧肉热量有多高？减肥能吃吗",
    "大理三天两夜旅游攻略",
    "三天两夜大理旅游省钱攻略",
    "手机黑屏打不开怎么办",
    "健身新手一周训练计划",
    "金毛幼犬怎么训练定点上厕所",
    "感冒咳嗽吃什么药好得快",
    "游戏攻略第三关怎么过",
    "臺灣夜市必吃的十種小吃",
    "X200Pro 拍照 review",
    "How to make bread at home",
]


def documents():
    """Return 42 videos; one of them, and every name that an author may choose, is an attack."""
    topics = ["做菜", "旅游", "数码"]
    videos = [
        Document(
            f"v{n}",
            TITLES[n % len(TITLES)],
            f"第 {n} 条：{TITLES[(n + 3) % len(TITLES)]}，详细步骤在视频里。",
            {
                "author": f"作者{n % 4}",
                "duration": 10 * n,
                "topic": topics[n % 3],
                "tags": [f"标签{n % 5}", "视频"],
            },
        )
        for n in range(41)
    ]
    return [
        *videos,
        Document(f"e{EVIL}", f"红烧肉 {EVIL}", f"红烧肉 {EVIL}", {"author": EVIL, f"n{EVIL}": EVIL}),
    ]


@pytest.fixture(scope="session")
def world(encoder, scorer, tmp_path_factory):
    """What the page's server serves, as its command line: two indexes and a scorer."""
    folder = tmp_path_factory.mktemp("page")
    for name, some in (("videos", documents()), ("few", documents()[:8])):
        Index.build(folder / name, some, Embedder(encoder)).close()
    names = [f"--index={name}={folder / name}" for name in ("videos", "few")]
    return [*names, f"--scorer=scorer={scorer}", f"--model=encoder={encoder}", "--workers=1"]


@pytest.fixture(scope="session")
def site(world):
    """The server, for tests that change nothing."""
    import httpx

    with running(*world) as server, httpx.Client(base_url=server.url, timeout=30) as server.http:
        yield server


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window.

    As long as it is there, an event loop runs in this thread, and other modules' tests cannot run their own.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, site):
    """Open the page in a fresh browser profile, and wait for what it shows first.

    Whatever test it is in, the page logs no error, breaks no rule of its policy and asks no other host.
    """
    opened, problems = [], []

    def open_page(state="", *, url=None, locale="en-US", wait=True, **options):
        options = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **options}
        context = browser.new_context(locale=locale, accept_downloads=True, **options)
        context.set_default_timeout(10_000)
        opened.append(context)
        page = context.new_page()
        page.problems = problems
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: note(message, problems))
        base = url or site.url
        page.on("request", lambda request: check_host(request, base, problems))
        page.goto(f"{base}/{state}")
        if wait:
            page.wait_for_selector(".hit, #start:not([hidden]), dialog[open]")
        return page

    yield open_page
    for context in opened:
        context.close()
    assert problems == []


def note(message, problems):
    if (
        message.type == "error" and "Failed to load resource" not in message.text
    ):  # a status that a test wants
        problems.append(message.text)


def check_host(request, base, problems):
    if not request.url.startswith((base, "blob:")):
        problems.append(f"asks {request.url}")


@contextmanager
def download(page):
    """Yield a list that holds the path of what the body downloads."""
    paths = []
    with page.expect_download() as info:
        yield paths
    paths.append(Path(info.value.path()))

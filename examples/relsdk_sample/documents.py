"""Documents of the sample world: facts first, then a title and a spoken-and-noisy text that show them."""

from __future__ import annotations

from relsdk.records import Document
from relsdk_sample.catalogue import Aspect, Constraint, Entity, Topic, load_catalogue
from relsdk_sample.draws import Draws
from relsdk_sample.noise import degrade, join_speech
from relsdk_sample.oracle import DocumentFacts

__all__ = ["make_documents"]

VAGUE_TITLES = (
    "关于{e}，今天一次给你说清楚",
    "{e}，好多人私信问我这个",
    "终于轮到{e}了，建议先收藏",
    "{e}来啦，看到最后有惊喜",
    "刷到就是赚到，{e}这条别划走",
)
OPENERS = (
    "哈喽大家好我又来了",
    "家人们今天咱们说说{e}",
    "好久不见，这期聊的是{e}",
    "评论区催了好几天的{e}",
    "先点个赞再往下看",
    "来了来了，{e}安排上",
)
ASIDES = (
    "上期有人留言问{other}{phrase}，那个咱们下回再讲",
    "顺便说一句，{other}{phrase}我主页有，这条不讲",
    "本来想拍{other}的，结果临时换了",
    "不像{other}那么麻烦",
    "想看{other}的朋友扣个一",
)
CLOSERS = (
    "好了今天就到这里，下期见",
    "觉得有用的话记得点赞关注",
    "有什么想问的打在评论区",
    "转给你那个需要的朋友",
    "我是{author}，咱们下次再聊",
)
EMOJI = ("🔥", "😭", "✨", "👀", "💯", "😂", "❗", "👉", "❤️", "📌")
AUTHOR_HEADS = ("阿", "小", "老", "大", "爱笑的", "快乐", "隔壁", "一只")
AUTHOR_NAMES = (
    "星", "周", "木木", "果子", "桃桃", "北北", "陈师傅", "七七", "米粒", "南风", "豆包儿", "可可",
)  # fmt: skip
AUTHOR_TAILS = ("日记", "说", "频道", "啊", "不加班", "在路上", "", "的日常", "研究所")


def make_documents(seed: int, count: int) -> tuple[Document, ...]:
    """Make documents.

    Args:
        seed: Equal seeds make equal documents.
        count: How many.

    Returns:
        Documents whose metadata holds topic, tags, author, duration (seconds) and facts.
    """
    draws = Draws(seed, "documents")
    return tuple(_document(draws, f"v{number:06d}") for number in range(count))


def _document(draws: Draws, identifier: str) -> Document:
    """Draw the facts of a document, then word it."""
    topic = draws.pick(load_catalogue())
    entity = draws.pick_early(topic.entities)
    aspects = draws.sample(topic.aspects, 2 if draws.chance(0.12) else 1)
    constraints = _draw_constraints(draws, topic)
    other = draws.pick([rival for rival in topic.entities if rival is not entity])
    mentioned = other if draws.chance(0.4) else None
    author = draws.pick(AUTHOR_HEADS) + draws.pick(AUTHOR_NAMES) + draws.pick(AUTHOR_TAILS)
    name = draws.pick(entity.names) if draws.chance(0.35) else entity.name
    tags = [draws.pick(topic.words), entity.name] + ([mentioned.name] if mentioned else [])
    facts = DocumentFacts(
        topic.name,
        entity.name,
        frozenset(aspect.key for aspect in aspects),
        frozenset(constraint.key for constraint in constraints),
    )
    return Document(
        id=identifier,
        title=_title(draws, name, aspects[0], constraints, tags),
        text=_text(draws, (topic, name, author), aspects, constraints, mentioned),
        metadata={
            "topic": topic.name,
            "tags": tags,
            "author": author,
            "duration": draws.between(12, 600),
            "facts": facts.to_metadata(),
        },
    )


def _draw_constraints(draws: Draws, topic: Topic) -> list[Constraint]:
    """Draw up to two constraints of different slots."""
    chosen: dict[str, Constraint] = {}
    wanted = 0 if draws.chance(0.3) else draws.between(1, 2)
    for constraint in draws.sample(topic.constraints, wanted):
        chosen.setdefault(constraint.slot, constraint)
    return list(chosen.values())


def _title(draws: Draws, name: str, aspect: Aspect, constraints: list[Constraint], tags: list[str]) -> str:
    """Word a title: mostly a hook without the aspect's usual words, sometimes plain, sometimes vague."""
    style = draws.below(100)
    if style < 55:
        title = draws.pick(aspect.titles).format(e=name)
    elif style < 75:
        title = name + draws.pick(("", "的", "，")) + draws.pick(aspect.phrases)
    elif style < 85:
        title = draws.pick(aspect.before) + name
    else:
        title = draws.pick(VAGUE_TITLES).format(e=name)
    for constraint in constraints:
        if draws.chance(0.6):
            form = draws.pick(("【{c}】{t}", "{c}｜{t}", "{t}（{c}）", "{t} {c}", "{t} #{c}"))
            title = form.format(c=draws.pick(constraint.phrases), t=title)
    if draws.chance(0.3):
        title += draws.pick(EMOJI)
    if draws.chance(0.45):
        title += "".join(f" #{tag}" for tag in draws.sample(tags, draws.between(1, 2)))
    return title


def _text(
    draws: Draws,
    scene: tuple[Topic, str, str],
    aspects: list[Aspect],
    constraints: list[Constraint],
    mentioned: Entity | None,
) -> str:
    """Word the transcript: opener, the aspects and constraints, perhaps another entity in passing, closer."""
    topic, name, author = scene
    body = [line for aspect in aspects for line in draws.sample(aspect.speech, draws.between(2, 3))]
    for constraint in constraints:
        body.insert(draws.below(len(body) + 1), draws.pick(constraint.speech))
    if draws.chance(0.5):
        body.insert(0, f"这条说的是{name}{draws.pick(aspects[0].phrases)}")
    if mentioned is not None:
        phrase = draws.pick(draws.pick(topic.aspects).phrases)
        aside = draws.pick(ASIDES).format(other=draws.pick(mentioned.names), phrase=phrase)
        body.insert(draws.below(len(body) + 1), aside)
    opener = draws.pick(OPENERS).format(e=name)
    closer = draws.pick(CLOSERS).format(author=author)
    return degrade(draws, join_speech(draws, [opener, *body, closer]))

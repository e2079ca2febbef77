// Keys of one character. They can be switched off, since speech input and slips of the hand press them, too.

import { byId, h, put } from "./dom.js";
import { t } from "./i18n.js";
import { browser } from "./store.js";
import { across, current, step } from "./walk.js";

const LIST = [
  [["/"], "keys.search"],
  [["j", "k", "↓", "↑"], "keys.move"],
  [["h", "l", "←", "→"], "keys.across"],
  [["0", "1", "2", "3"], "keys.grade"],
  [["u"], "keys.undo"],
  [["w"], "keys.why"],
  [["n", "p"], "keys.page"],
  [["c"], "keys.compare"],
  [["g"], "keys.grades"],
  [["?"], "keys.help"],
];

/** Listen to keys. actions: {grade(hit, level), undo(), why(hit), page(by), compare(), grades(), help()}. */
export function startKeys(actions) {
  byId("keys-on").checked = browser.get("relsdk.keys") !== "off";
  byId("keys-on").addEventListener("change", (event) =>
    browser.set("relsdk.keys", event.target.checked ? null : "off"),
  );
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    const act = typing(event.target) ? inField(event) : (single(event, actions) ?? arrows(event));
    if (!act) return;
    event.preventDefault();
    act();
  });
}

const typing = (element) => element.matches("input:not([type=radio], [type=checkbox]), textarea, select");

/** From the search box, the down key goes to the hits. */
function inField(event) {
  if (event.target.id !== "query") return null;
  if (event.key === "ArrowDown") return () => step(1);
  return null;
}

function arrows(event) {
  if (!current()) return null;
  return (
    { ArrowDown: () => step(1), ArrowUp: () => step(-1), ArrowLeft: across, ArrowRight: across }[event.key] ??
    null
  );
}

/** A Chinese input method sends wide signs, and "、" for the slash. */
const plain = (key) => (key === "、" ? "/" : key.normalize("NFKC"));

function single(event, actions) {
  if (browser.get("relsdk.keys") === "off") return null;
  const key = plain(event.key);
  const hit = current();
  const everywhere = {
    "/": () => (byId("query").focus(), byId("query").select()),
    "?": actions.help,
    j: () => step(1),
    k: () => step(-1),
    n: () => actions.page(1),
    p: () => actions.page(-1),
    c: actions.compare,
    g: actions.grades,
    u: actions.undo,
  };
  if (everywhere[key]) return everywhere[key];
  if (!hit) return null;
  if (/^[0-3]$/.test(key)) return () => actions.grade(hit, Number(key));
  return { h: across, l: across, w: () => actions.why(hit) }[key] ?? null;
}

export function nameKeys() {
  put(
    byId("keys-list"),
    LIST.map(([keys, what]) =>
      h(
        "div",
        {},
        h(
          "dt",
          {},
          keys.map((key) => h("kbd", {}, key)),
        ),
        h("dd", {}, t(what)),
      ),
    ),
  );
}

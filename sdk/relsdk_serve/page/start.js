// What stands where the hits will be, before the first query: what the server has.

import { h, put } from "./dom.js";
import { t } from "./i18n.js";

export function showStart(element, indexes, choose) {
  const cards = indexes.map((index) =>
    h(
      "li",
      { class: "card" },
      h(
        "h3",
        {},
        h("button", { type: "button", class: "link", onclick: () => choose(index.name) }, index.name),
      ),
      h(
        "p",
        {},
        h("b", {}, t("start.documents", { n: index.documents })),
        " · ",
        t(index.levels ? "start.levels" : "start.nolevels"),
      ),
      h(
        "dl",
        { class: "metadata" },
        row(t("start.model"), index.model),
        row(t("start.modes"), index.modes.map((mode) => t(`mode.${mode}`)).join(", ")),
        index.scorers.length ? row(t("start.scorers"), index.scorers.join(", ")) : null,
        index.fields.length
          ? row(t("start.fields"), index.fields.map((field) => field.name).join(", "))
          : null,
      ),
    ),
  );
  put(
    element,
    h(
      "div",
      { class: "welcome" },
      h("h2", {}, t("start.title")),
      h("p", {}, t("start.text")),
      h(
        "p",
        { class: "hint" },
        hint(["/"], "keys.search"),
        hint(["j", "k"], "keys.hint"),
        hint(["0", "–", "3"], "keys.hint.grade"),
        hint(["w"], "keys.hint.why"),
        hint(["?"], "keys.hint.all"),
      ),
      h("h3", { class: "over" }, t("start.indexes")),
      h("ul", { class: "cards" }, cards),
    ),
  );
}

const row = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
const hint = (keys, what) =>
  h(
    "span",
    {},
    keys.map((key) => (key === "–" ? key : h("kbd", {}, key))),
    " ",
    t(what),
  );

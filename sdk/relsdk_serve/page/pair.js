// Where the server has models and no index: grade a text for a query, and compare two.

import { ask } from "./api.js";
import { h, put } from "./dom.js";
import { fixed, t } from "./i18n.js";
import { levelChip, meter, probabilityBar, probabilityTable } from "./level.js";

/** Show the panel. report: {busy(yes), failed(error, retry), waits(wait), done(message)}. */
export function showPair(element, models, report) {
  const graders = models.filter((model) => model.levels || model.kind === "scorer");
  const encoders = models.filter((model) => model.kind === "encoder");
  const kept = Object.fromEntries(
    [...element.querySelectorAll("textarea, input, select")].map((one) => [one.id, one.value]),
  );
  const field = (id, key, control) => h("div", { class: "field" }, h("label", { for: id }, t(key)), control);
  const text = (id, rows) =>
    h("textarea", { id, rows, value: kept[id] ?? "", ...(id === "pair-second" ? {} : { required: true }) });
  const query = h("input", {
    id: "pair-query",
    type: "text",
    maxlength: 2000,
    autocomplete: "off",
    value: kept["pair-query"] ?? "",
    required: true,
  });
  const first = text("pair-first", 4);
  const second = text("pair-second", 4);
  const model = h(
    "select",
    { id: "pair-model" },
    graders.map(({ id }) => h("option", { value: id }, id)),
  );
  if (kept["pair-model"]) model.value = kept["pair-model"];
  const result = h("div", { class: "pair-result", id: "pair-result" });
  const form = h(
    "form",
    {
      class: "fields pair-form",
      onsubmit: (event) => {
        event.preventDefault();
        grade(
          {
            query: query.value.trim(),
            documents: [first.value, second.value].map((one) => one.trim()).filter(Boolean),
            model: model.value,
            encoder: encoders[0]?.id,
          },
          result,
          report,
        );
      },
    },
    field("pair-query", "pair.query", query),
    h(
      "div",
      { class: "two-fields" },
      field("pair-first", "pair.first", first),
      field("pair-second", "pair.second", second),
    ),
    graders.length > 1 ? field("pair-model", "pair.model", model) : null,
    graders.length ? null : h("p", { class: "help" }, t("pair.nograde")),
    h("div", { class: "actions" }, h("button", { class: "main", type: "submit" }, t("pair.submit"))),
  );
  put(
    element,
    h(
      "div",
      { class: "welcome" },
      h("h2", {}, t("pair.title")),
      h("p", {}, t("pair.text")),
      form,
      result,
      h("h2", {}, t("pair.index.title")),
      h("p", {}, t("pair.index.text")),
      h(
        "pre",
        { tabindex: 0 },
        h("code", {}, "relsdk index build docs.idx --model BUNDLE --input docs.jsonl\nrelsdk serve docs.idx"),
      ),
    ),
  );
}

async function grade({ query, documents, model, encoder }, result, report) {
  const again = () => grade({ query, documents, model, encoder }, result, report);
  report.busy(true);
  try {
    const [grades, vectors] = await Promise.all([
      model
        ? ask("v1/grade", {
            body: { model, pairs: documents.map((document) => ({ query, document })) },
            onWait: report.waits,
          })
        : null,
      encoder ? embed(encoder, query, documents, report) : null,
    ]);
    show(result, documents, grades?.data.grades, vectors);
    report.done(t("pair.result"));
  } catch (error) {
    report.failed(error, again);
  } finally {
    report.busy(false);
  }
}

async function embed(model, query, documents, report) {
  const of = async (input, type) => {
    const { data } = await ask("v1/embeddings", {
      body: { model, input, input_type: type },
      onWait: report.waits,
    });
    return data.data.map((one) => one.embedding);
  };
  return [...(await of([query], "query")), ...(await of(documents, "document"))];
}

function show(element, documents, grades, vectors) {
  const cards = documents.map((text, place) => {
    const graded = grades?.[place];
    return h(
      "section",
      { class: "card" },
      h("h3", {}, "AB"[place]),
      h("p", { class: "text" }, text),
      graded ? h("div", { class: "level" }, levelChip(graded)) : null,
      graded?.probabilities ? [probabilityBar(graded.probabilities), probabilityTable(graded)] : null,
      graded?.probabilities
        ? number(t("level.expected"), graded.expected_level, graded.expected_level / 3)
        : null,
      vectors ? number(t("pair.cosine"), cosine(vectors[0], vectors[place + 1])) : null,
    );
  });
  const between =
    vectors && documents.length === 2 ? number(t("pair.between"), cosine(vectors[1], vectors[2])) : null;
  put(element, h("h3", { class: "over" }, t("pair.result")), h("div", { class: "cards" }, cards), between);
}

const number = (name, value, share = value) =>
  h(
    "dl",
    { class: "signals" },
    h(
      "div",
      {},
      h("dt", {}, name),
      h("dd", {}, meter(share), h("span", { class: "number" }, fixed(value, 3))),
    ),
  );

function cosine(one, other) {
  const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
}

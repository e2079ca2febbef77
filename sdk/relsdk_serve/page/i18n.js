// The page's words in Chinese and English, and numbers as either writes them.

import { browser } from "./store.js";
import en from "./words_en.js";
import zh from "./words_zh.js";

const root = document.documentElement;
const isChinese = () => root.lang === "zh-CN";

/** Return the words of a key. {name} is replaced; a pair of texts is for one and for many of {n}. */
export function t(key, values = {}) {
  const entry = (isChinese() ? zh : en)[key] ?? key;
  const text = Array.isArray(entry) ? entry[values.n === 1 ? 0 : 1] : entry;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? numeral(value) : value;
  });
}

/** Write a number with at most so many digits behind the point. */
export function numeral(value, digits = 1) {
  return new Intl.NumberFormat(root.lang, { maximumFractionDigits: digits }).format(value);
}

/** Write a number with exactly so many digits behind the point. */
export const fixed = (value, digits) =>
  new Intl.NumberFormat(root.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(
    value,
  );

/** Write a share of 1 as a whole per cent; what is there but rounds to nothing is "<1%". */
export function percent(share) {
  if (share > 0 && share < 0.005) return "<1%";
  return new Intl.NumberFormat(root.lang, { style: "percent", maximumFractionDigits: 0 }).format(share);
}

/** Milliseconds: two digits that count. */
export const milliseconds = (value) => (value < 10 ? fixed(value, 1) : numeral(value, 0));

export function switchLanguage() {
  root.lang = isChinese() ? "en" : "zh-CN";
  browser.set("relsdk.language", root.lang);
  translate();
}

/** Put the words into the static part of the page. */
export function translate() {
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
  for (const element of document.querySelectorAll("[data-t-placeholder]")) {
    element.placeholder = t(element.dataset.tPlaceholder);
  }
  const language = document.getElementById("language");
  language.textContent = isChinese() ? "EN" : "中";
  language.lang = isChinese() ? "en" : "zh-CN";
  language.setAttribute("aria-label", t("language"));
}

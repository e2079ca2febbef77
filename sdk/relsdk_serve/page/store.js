// What the browser keeps: for the tab (key, grades) or for good (theme, language, keys). Memory where it may not.

const memory = new Map();

function over(area) {
  return {
    get(name) {
      try {
        return window[area].getItem(name);
      } catch {
        return memory.get(area + name) ?? null;
      }
    },
    set(name, value) {
      try {
        if (value === null) window[area].removeItem(name);
        else window[area].setItem(name, value);
      } catch {
        memory.set(area + name, value);
      }
    },
  };
}

export const tab = over("sessionStorage");
export const browser = over("localStorage");

"use strict";
// Everything here is comfort: the page can be read without it.
(() => {
  const root = document.documentElement;
  const THEMES = ["system", "light", "dark"];
  const KEY = "gradcheck-theme";

  // A page opened from a file may have no storage; then the choice lasts as long as the page.
  const remembered = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* not kept */ } };

  function paint(theme) {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }

  let theme = THEMES.includes(remembered()) ? remembered() : "system";
  paint(theme);

  function offerThemes() {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = `Theme: ${theme}`; };
    button.hidden = false;
    name();
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      paint(theme);
      remember(theme);
      name();
    });
  }

  function offerFilter() {
    const form = document.getElementById("filter");
    if (!form) return;
    const text = document.getElementById("text");
    const boxes = [...form.querySelectorAll("[name=status]")];
    const checks = [...document.querySelectorAll(".check")];
    const words = new Map(checks.map((check) => [check, check.textContent.toLowerCase()]));
    const passing = document.querySelector("details.passing");

    function apply() {
      const wanted = text.value.trim().toLowerCase();
      const statuses = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      const matches = (check) =>
        statuses.has(check.dataset.status) && words.get(check).includes(wanted);
      for (const check of checks) check.hidden = !matches(check);
      for (const section of document.querySelectorAll("section.checks"))
        section.hidden = !section.querySelector(".check:not([hidden])");
      const shown = checks.filter((check) => !check.hidden).length;
      const narrowed = wanted !== "" || statuses.size < boxes.length;
      if (passing && narrowed) passing.open = true;
      document.getElementById("shown").textContent = narrowed
        ? `${shown} of ${checks.length} checks shown` : `all ${checks.length} checks shown`;
    }

    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input, textarea, select");
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      text.focus();
    });
    apply();
  }

  function offerCopies() {
    for (const replay of document.querySelectorAll(".replay")) {
      const button = document.createElement("button");
      const code = replay.querySelector("code");
      button.type = "button";
      button.textContent = "Copy";
      button.setAttribute("aria-live", "polite");
      button.addEventListener("click", async () => {
        const done = await copy(code);
        button.textContent = done ? "Copied" : "Selected";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      replay.append(button);
    }
  }

  // Where the clipboard is out of reach, the line stands selected, one key from being copied.
  async function copy(code) {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      return true;
    } catch {
      return document.execCommand("copy");
    }
  }

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let node = target; node; node = node.parentElement)
      if (node.matches("details")) node.open = true;
    target.querySelector(":scope > details")?.setAttribute("open", "");
    target.scrollIntoView();
  }

  function openForPrint() {
    let closed = [];
    addEventListener("beforeprint", () => {
      closed = [...document.querySelectorAll("details:not([open])")];
      for (const details of closed) details.open = true;
    });
    addEventListener("afterprint", () => { for (const details of closed) details.open = false; });
  }

  addEventListener("hashchange", reveal);
  document.addEventListener("DOMContentLoaded", () => {
    offerThemes();
    offerFilter();
    offerCopies();
    openForPrint();
    if (location.hash) reveal();
  });
})();

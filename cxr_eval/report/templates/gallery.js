"use strict";
// The gallery's controls. Without this script everything is on the page; with it, images can be searched, ordered and enlarged.
(() => {
  const root = document.querySelector("section.gallery");
  const form = root && root.querySelector("form.tools");
  if (!form) return;
  const list = root.querySelector(".items");
  const status = root.querySelector(".count");
  const opacity = form.elements.opacity;
  const lowestFirst = { mass: true, change: false, loss: false };
  const items = [...list.children].map((item, place) => ({
    item,
    place,
    label: item.dataset.label,
    rows: [...item.querySelectorAll(".row")],
    sheets: [...item.querySelectorAll(".sheet")],
    shots: [...item.querySelectorAll(".shot")],
  }));
  const chosen = (name) => (form.elements[name] ? form.elements[name].value : "");
  const shown = (element) => !element.closest("[hidden]") && !element.closest("details:not([open])");

  // Which images are there, in which order

  function answers(rows, wanted) {
    const has = (key, value) => (row) => row.dataset[key] === value;
    if (wanted === "kept") return rows.some(has("flipped", "0")) && !rows.some(has("flipped", "1"));
    if (wanted === "flipped") return rows.some(has("flipped", "1"));
    if (wanted === "wrong") return rows.some(has("wrong", "1"));
    return true;
  }

  function worst(rows, key) {
    const values = rows.map((row) => row.dataset[key]).filter((value) => value !== "").map(Number);
    if (!values.length) return Infinity; // not known: last
    return lowestFirst[key] ? Math.min(...values) : -Math.max(...values);
  }

  function apply() {
    const [label, model, trainer, wanted, order] = ["label", "model", "trainer", "answer", "order"].map(chosen);
    const off = new Set([...form.querySelectorAll("input[name=kind]:not(:checked)")].map((box) => box.value));
    let count = 0;
    for (const each of items) {
      for (const row of each.rows) {
        row.hidden = (model !== "" && row.dataset.model !== model) || (trainer !== "" && row.dataset.trainer !== trainer);
      }
      for (const sheet of each.sheets) sheet.hidden = !sheet.querySelector(".row:not([hidden])");
      const rows = each.rows.filter((row) => !row.hidden);
      each.item.hidden = (label !== "" && each.label !== label) || !rows.length || !answers(rows, wanted);
      each.worst = order ? worst(rows, order) : 0;
      count += !each.item.hidden;
    }
    const sorted = [...items].sort((a, b) => (a.worst === b.worst ? a.place - b.place : a.worst - b.worst));
    if (sorted.some((each, k) => list.children[k] !== each.item)) list.append(...sorted.map((each) => each.item));
    for (const view of list.querySelectorAll(".view")) view.hidden = off.has(view.dataset.kind);
    for (const part of list.querySelectorAll(".condition")) part.hidden = !part.querySelector(".view:not([hidden])");
    root.classList.toggle("bare", !form.elements.outlines.checked);
    status.textContent = count
      ? `${count} of ${items.length} ${items.length === 1 ? "image" : "images"} on this page shown.`
      : "No image is like that. Choose “all” in one of the lists.";
  }

  function fade() {
    root.style.setProperty("--maps", opacity.value / 100);
    opacity.nextElementSibling.value = `${opacity.value} %`;
    opacity.setAttribute("aria-valuetext", `${opacity.value} %`);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => (event.target === opacity ? fade() : event.target.type === "range" || apply()));
  form.addEventListener("reset", () => setTimeout(() => { fade(); apply(); }));

  // Every picture opens; one stop of the tab key an image, arrows inside of it

  const stop = (each, shot) => each.shots.forEach((other) => { other.tabIndex = other === shot ? 0 : -1; });
  const owner = (element) => items.find((each) => each.item.contains(element));
  const order = () => [...list.children].filter((item) => !item.hidden).map((item) => items.find((each) => each.item === item));
  for (const each of items) {
    for (const shot of each.shots) {
      shot.setAttribute("role", "button");
      shot.setAttribute("aria-haspopup", "dialog");
    }
    stop(each, each.shots[0]);
  }

  function go(shot) {
    stop(owner(shot), shot);
    shot.focus({ preventScroll: true });
    shot.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function within(shot, key) {
    const shots = owner(shot).shots.filter(shown);
    const k = shots.indexOf(shot);
    if (key === "ArrowRight") return shots[k + 1];
    if (key === "ArrowLeft") return shots[k - 1];
    if (key === "Home") return shots[0];
    if (key === "End") return shots[shots.length - 1];
    const here = shot.getBoundingClientRect();
    const sign = key === "ArrowDown" ? 1 : -1;
    const far = shots
      .map((other) => [other, other.getBoundingClientRect()])
      .filter(([, box]) => sign * (box.top - here.top) > here.height / 2)
      .map(([other, box]) => [Math.abs(box.top - here.top) * 4 + Math.abs(box.left - here.left), other]);
    return far.length ? far.reduce((a, b) => (b[0] < a[0] ? b : a))[1] : undefined;
  }

  function step(by) {
    const all = order();
    const now = owner(document.activeElement);
    let k = all.indexOf(now) + by;
    if (!now || now.item.hidden) {
      const first = all.findIndex((each) => each.item.getBoundingClientRect().bottom > 0);
      k = by > 0 ? Math.max(0, first) : first - 1;
    }
    const next = all[Math.min(all.length - 1, Math.max(0, k))];
    if (!next) return;
    go(next.shots.find((shot) => shot.tabIndex === 0 && shown(shot)) || next.shots.find(shown));
    next.item.scrollIntoView({ block: "start" });
  }

  list.addEventListener("click", (event) => {
    const shot = event.target.closest(".shot");
    if (shot) open(shot);
  });
  list.addEventListener("keydown", (event) => {
    const shot = event.target.closest && event.target.closest(".shot");
    if (!shot || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") open(shot);
    else if (/^(Arrow|Home$|End$)/.test(event.key)) {
      const next = within(shot, event.key);
      if (next) go(next);
    } else return;
    event.preventDefault();
  });

  // One picture, as large as the window

  const dialog = root.querySelector("dialog.zoom");
  const [title, where, stage, said] = [".title", ".where", ".stage", ".said"].map((part) => dialog.querySelector(part));
  let current;

  function draw(shot) {
    current = shot;
    const each = owner(shot);
    const shots = each.shots.filter(shown);
    const all = order();
    const copy = shot.cloneNode(true);
    for (const name of ["tabindex", "aria-haspopup"]) copy.removeAttribute(name);
    for (const image of copy.querySelectorAll("img")) image.removeAttribute("loading");
    copy.setAttribute("role", "img");
    stage.replaceChildren(copy);
    title.textContent = each.item.querySelector("h3").textContent;
    where.textContent = `Image ${all.indexOf(each) + 1} of ${all.length}, panel ${shots.indexOf(shot) + 1} of ${shots.length}`;
    said.textContent = shot.getAttribute("aria-label");
    for (const button of dialog.querySelectorAll("button[data-go]")) {
      button.setAttribute("aria-disabled", String(!beside(button.dataset.go)));
    }
  }

  function beside(direction) {
    const each = owner(current);
    const shots = each.shots.filter(shown);
    const k = shots.indexOf(current);
    if (direction === "left") return shots[k - 1];
    if (direction === "right") return shots[k + 1];
    const all = order();
    const other = all[all.indexOf(each) + (direction === "down" ? 1 : -1)];
    const there = other && other.shots.filter(shown);
    return there && there[Math.min(k, there.length - 1)];
  }

  function move(direction) {
    const next = beside(direction);
    if (next) draw(next);
  }

  function open(shot) {
    draw(shot);
    if (!dialog.open) dialog.showModal();
    dialog.querySelector("button.close").focus();
  }

  dialog.addEventListener("close", () => {
    stage.replaceChildren();
    if (current && shown(current)) go(current);
  });
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.dataset.go) move(button.dataset.go);
    else if (button || event.target === dialog || event.target === stage) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const direction = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
    if (!direction) return;
    event.preventDefault();
    move(direction);
  });

  // Single letters; they can be switched off, for speech input types letters too

  const help = root.querySelector("details.keys");
  let lastSeen = 100;
  const letters = {
    j: () => (dialog.open ? move("down") : step(1)),
    k: () => (dialog.open ? move("up") : step(-1)),
    m: () => {
      if (Number(opacity.value)) lastSeen = opacity.value;
      opacity.value = Number(opacity.value) ? 0 : lastSeen;
      fade();
    },
    o: () => form.elements.outlines.click(),
    "?": () => {
      if (dialog.open) dialog.close();
      help.open = true;
      help.querySelector("summary").focus();
    },
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !form.elements.letters.checked) return;
    if (event.target.matches("select, textarea, input:not([type=checkbox]):not([type=range])") || event.target.isContentEditable) return;
    const act = Object.hasOwn(letters, event.key) && letters[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  form.hidden = false;
  fade();
  apply();
})();

"use strict";
// Adds the menu and the sliders; without this script all pictures are side by side.
const toolbar = document.querySelector(".toolbar");
if (toolbar) {
  const cards = [...document.querySelectorAll("#pictures .card")];
  const list = document.querySelector(".cards");
  const ranks = new Map(cards.map((card) => [card, JSON.parse(card.dataset.ranks)]));
  const { reason, left, right } = toolbar.elements;

  const put = (card, side, version) => {
    const from = [...card.querySelectorAll(".strip img")].find((img) => img.dataset.version === version);
    const to = card.querySelector(`.stage img.${side}`);
    to.src = from.src;
    to.width = from.width;
    to.height = from.height;
    to.alt = from.alt;
    to.classList.toggle("heat", from.classList.contains("heat"));
    card.querySelector(`.tag.${side}`).textContent = from.dataset.name;
  };
  const fill = (card) => {
    put(card, "left", left.value);
    put(card, "right", right.value);
    card.querySelector(".stage").hidden = false;
  };
  const show = () => {
    const chosen = reason.value;
    const place = (card) => (chosen ? ranks.get(card)[chosen] : cards.indexOf(card));
    const shown = cards.filter((card) => place(card) !== undefined);
    shown.sort((one, other) => place(one) - place(other));
    // Moves the elements, unlike CSS order, so that the tab key follows.
    list.append(...shown);
    for (const card of cards) card.hidden = !shown.includes(card);
    shown.forEach(fill);
    toolbar.querySelector("output").textContent = `${shown.length} of ${cards.length} pictures`;
  };

  for (const card of cards) {
    const stage = card.querySelector(".stage");
    const slider = stage.querySelector("input");
    slider.addEventListener("input", () => stage.style.setProperty("--at", `${slider.value}%`));
    card.querySelector(".strip").addEventListener("click", (event) => {
      const version = event.target.dataset.version;
      if (version) put(card, "right", version);
    });
  }
  // A link from a face to its picture shows the picture even if the menu hides it.
  const showTarget = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.hidden) {
      reason.value = "";
      show();
      target.scrollIntoView();
    }
  };
  toolbar.addEventListener("change", show);
  toolbar.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", showTarget);
  document.body.classList.add("scripted");
  toolbar.hidden = false;
  show();
  showTarget();
}

"use strict";
for (const box of document.querySelectorAll("[data-compare]")) {
  const picture = box.querySelector(".compare");
  const range = box.querySelector("input");
  const blink = box.querySelector("[data-blink]");
  let timer = 0;
  const show = (part) => picture.style.setProperty("--at", part + "%");
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    blink.setAttribute("aria-pressed", "false");
  };
  range.addEventListener("input", () => { stop(); show(range.value); });
  blink.addEventListener("click", () => {
    if (timer) { stop(); show(range.value); return; }
    let on = false;
    const turn = () => { on = !on; show(on ? 100 : 0); };
    turn();
    timer = setInterval(turn, 700);
    blink.setAttribute("aria-pressed", "true");
  });
  const seams = box.querySelector("[data-seams]");
  if (seams) seams.addEventListener("click", () => {
    seams.setAttribute("aria-pressed", String(picture.classList.toggle("shown")));
  });
  const drag = (event) => {
    if (event.type !== "pointerdown" && !event.buttons) return;
    const frame = picture.getBoundingClientRect();
    range.value = String(Math.min(100, Math.max(0, 100 * (event.clientX - frame.left) / frame.width)));
    stop();
    show(range.value);
  };
  picture.addEventListener("pointerdown", drag);
  picture.addEventListener("pointermove", drag);
}
const tip = document.getElementById("tip");
const tell = (event) => {
  const found = event.target.closest("[data-tip]");
  tip.hidden = !found;
  if (!found) return;
  tip.textContent = found.dataset.tip;
  const { offsetWidth: wide, offsetHeight: tall } = tip;
  const below = event.clientY + 16;
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - wide - 8)) + "px";
  tip.style.top = (below + tall > innerHeight ? Math.max(4, event.clientY - tall - 12) : below) + "px";
};
for (const name of ["pointermove", "click"]) document.addEventListener(name, tell);
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});

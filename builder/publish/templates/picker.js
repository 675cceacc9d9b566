
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const field = (id) => document.getElementById(id);
  const [python, cuda, machine, torch, fresh] = ["python", "cuda", "machine", "torch", "fresh"].map(field);
  if (!data.wheels.length) return;

  const fill = (select, options, wanted) => {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    if (options.some(([value]) => value === wanted)) select.value = wanted;
  };

  const fitsTorch = (wheel, minor) => wheel.newerTorch ? minor >= wheel.torch : minor === wheel.torch;
  const ofChoice = () => data.wheels.filter((wheel) => wheel.cuda === cuda.value && wheel.machine === machine.value);

  // From the oldest torch that a wheel of this CUDA version and machine names to the newest, and one newer than all.
  const torchOptions = () => {
    const wheels = ofChoice();
    if (!wheels.length) return [["0", "none"]];
    const named = wheels.map((wheel) => wheel.torch);
    const minors = [];
    for (let minor = Math.min(...named); minor <= Math.max(...named); minor++) {
      if (wheels.some((wheel) => fitsTorch(wheel, minor))) minors.push(minor);
    }
    const options = minors.map((minor) => [String(minor), `2.${minor}`]);
    if (wheels.some((wheel) => wheel.newerTorch)) {
      const next = minors[minors.length - 1] + 1;
      options.push([`${next}+`, `2.${next} or newer`]);
    }
    return options.reverse();
  };

  const fits = (wheel) => {
    const wantedPython = Number(python.value);
    return (wheel.newerPython ? wantedPython >= wheel.python : wantedPython === wheel.python)
      && fitsTorch(wheel, parseInt(torch.value, 10));
  };

  const show = () => {
    const wheel = ofChoice().find(fits);
    const answer = field("answer");
    field("lines").hidden = !wheel;
    if (!wheel) {
      const there = ofChoice().map((other) =>
        `Python 3.${other.python}${other.newerPython ? " or newer" : ""} with torch 2.${other.torch}${other.newerTorch ? " or newer" : ""}`);
      const where = `For CUDA ${data.cuda[cuda.value]}${data.machine.length > 1 ? ` on ${machine.value}` : ""}`;
      answer.textContent = there.length
        ? `No wheel fits Python 3.${python.value} with torch ${torch.selectedOptions[0].text}. ${where} there are wheels for ${[...new Set(there)].join("; ")}.`
        : `${where} there is no wheel.`;
      return;
    }
    // `>=` would replace the pre-release that a vendor ships.
    const torchVersion = torch.value.endsWith("+") ? `torch>2.${parseInt(torch.value, 10) - 1}.9999` : `torch==2.${torch.value}.*`;
    const index = new URL(`${cuda.value}/`, document.baseURI).href;
    const indexes = fresh.checked ? [index, data.torchIndex + cuda.value] : [index];
    const wanted = `"${wheel.requirement}" "${torchVersion}"`;
    field("pip").textContent = `python -m pip install ${wanted} ${indexes.map((url) => `--extra-index-url ${url}`).join(" ")}`;
    field("uv").textContent = `uv pip install ${wanted} ${indexes.map((url) => `--index ${url}`).join(" ")}`;
    answer.textContent = wheel.architectures ? `Runs on GPUs of compute capability ${wheel.architectures.replaceAll("a", "").split(" ").join(", ")}${/\b8\.9\b/.test(wheel.architectures) ? ", and on newer ones, whose driver compiles at the first call" : ""}.` : "";
  };

  const copy = async (button) => {
    const line = field(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(line.textContent);
      field("copied").textContent = `Copied the ${button.dataset.copy} line.`;
      const label = button.firstChild;
      label.textContent = "Copied";
      setTimeout(() => { label.textContent = "Copy"; field("copied").textContent = ""; }, 2000);
    } catch {
      // No clipboard here (a page that was not served over https): select the line, to be copied by hand.
      getSelection().selectAllChildren(line);
    }
  };

  fill(python, data.python.map((minor) => [String(minor), `3.${minor}`]), "12");
  fill(cuda, Object.entries(data.cuda).sort().reverse().map(([tag, version]) => [tag, version]));
  fill(machine, data.machine.map((name) => [name, name]));
  machine.parentElement.hidden = data.machine.length < 2;
  // The newest torch that some wheel names; "or newer" stands above it and is for the visitor to choose.
  fill(torch, torchOptions());
  torch.value = [...torch.options].map((option) => option.value).find((value) => !value.endsWith("+"));
  for (const input of [cuda, machine]) input.addEventListener("change", () => { fill(torch, torchOptions(), torch.value); show(); });
  for (const input of [python, torch, fresh]) input.addEventListener("change", show);
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
  field("picker").addEventListener("submit", (event) => event.preventDefault());
  show();
  field("picker").hidden = false;
})();

// What becomes of names on their way into a task: judged by modules/functions.nf, staged and quoted by Nextflow's own code.
//   groovy stage_names.groovy FUNCTIONS.nf NAMES.json OUT.json     NAMES: texts; each is a file name below the folder /in
def (functions, names, out) = args.collect { name -> new File(name) }
def flow = new GroovyShell(this.class.classLoader).parse(functions)
def staging = new nextflow.executor.SimpleFileCopyStrategy()
def found = new groovy.json.JsonSlurper().parse(names).withIndex().collect { name, index ->
    def path = java.nio.file.Path.of('/in').resolve(name)
    [
        fault: flow.unusableName(path),
        stage: staging.stageInputFile(path, "${index}/${name}".toString()),
        shown: nextflow.util.Escape.path(path),
        text: flow.jsonText([id: name]),
    ]
}
out.text = groovy.json.JsonOutput.toJson(found)
